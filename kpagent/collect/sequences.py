"""Sequences of frames on disk, read a window at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kpagent.collect.sequence_file import (
    FORMS,
    PER_FRAME,
    PER_SEQUENCE,
    READABLE,
    TYPES,
    combine_digests,
    damage_of,
    fits,
    piece_rows,
)
from kpagent.errors import UsageError

MEMORY = 1_500_000_000
"""Bytes that `Sequences` holds in memory unless told otherwise."""


class Sequences:
    """Sequences in a file that `write_sequences` made, or a part of them, read a window at a time.

    Datasets are held in memory, the smallest first, as long as they fit into `memory` bytes together; the others are read
    from the file, chunk by chunk. A batch of 32 windows of 16 frames of 64×64 costs 0.5 ms of a core from memory and 14 to
    20 ms from the file: give more memory where there is more. The object can be pickled and survives a fork: each process
    opens the file anew, and loads what it holds in memory on first use.

    Args:
        path: of the file.
        memory: bytes.

    Raises:
        UsageError: no such file, not such a file, cut short, damaged, or with NaN or infinity in actions or rewards.
    """

    def __init__(self, path: str | Path, *, memory: int = MEMORY) -> None:
        self._store = _Store(Path(path), memory)
        self._chosen = np.arange(len(self._store.lengths))

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._store.path

    @property
    def header(self) -> dict[str, Any]:
        """Plain JSON values: format, units, versions, and the fields of `Provenance`."""
        return self._store.header

    @property
    def digest(self) -> str:
        """SHA-256 of the header and of all contents, as it was written; `verify` computes it anew."""
        return self._store.digest

    @property
    def lengths(self) -> np.ndarray:
        """(N,) frames of each sequence."""
        return self._store.lengths[self._chosen]

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) classes, if there are any."""
        return None if self._store.labels is None else self._store.labels[self._chosen]

    @property
    def num_frames(self) -> int:
        """Of all sequences together."""
        return int(self.lengths.sum())

    @property
    def frame_size(self) -> int:
        """S."""
        return int(self._store.shapes["frames"][1])

    @property
    def action_dim(self) -> int:
        """A; 0 without actions."""
        return int(self._store.shapes["actions"][1]) if "actions" in self._store.shapes else 0

    @property
    def has_rewards(self) -> bool:
        """Whether rewards are known."""
        return "rewards" in self._store.shapes

    @property
    def has_keyframes(self) -> bool:
        """Whether the true keyframes are known."""
        return "keyframes" in self._store.shapes

    @property
    def truth_names(self) -> tuple[str, ...]:
        """(P,) names of the points in `truth`; empty without truth."""
        return tuple(self.header["truth_names"]) if "truth" in self._store.shapes else ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; empty without labels."""
        return tuple(self.header["label_names"]) if self._store.labels is not None else ()

    def verify(self) -> None:
        """Read the whole file and compare its digest.

        Raises:
            UsageError: it is damaged or was altered.
        """
        if self._store.compute_digest() != self.digest:
            raise UsageError(f"{self.path} was altered after it was written: its digest does not match")

    def split(self, held_out: float) -> tuple[Sequences, Sequences]:
        """Sequences to train on, and others held out; always the same for one file.

        Args:
            held_out: share of the sequences to hold out, above 0 and below 1; at least one goes to either side.

        Raises:
            UsageError: another share, or a single sequence.
        """
        if not 0 < held_out < 1:
            raise UsageError(f"the share to hold out must be above 0 and below 1; got {held_out!r}")
        if len(self) < 2:
            raise UsageError(f"a single sequence cannot be split into training and held-out ones: {self.path}")
        count = min(max(round(held_out * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(0).permutation(len(self))
        return self._part(np.sort(order[count:])), self._part(np.sort(order[:count]))

    def windows(self, batch: int, length: int, generator: np.random.Generator, *, mix: float = 0.0) -> dict[str, np.ndarray]:
        """Random windows of consecutive frames of one sequence each, every legal one with the same probability.

        Args:
            batch: B windows.
            length: T frames of each.
            generator: what they are drawn with.
            mix: share of the windows, the last ones, whose frames are each drawn by itself, from sequences of one class.

        Returns:
            frames (B, T, S, S, 3) uint8 and, where the file has them, actions (B, T, A), rewards (B, T), truth (B, T, P, 2),
            all float32, keyframes (B, T) bool, and labels (B,) int64.

        Raises:
            UsageError: every sequence is shorter than `length`, or the file is damaged.
        """
        mixed = round(mix * batch)
        draws = ((self._consecutive, batch - mixed), (self._mixed, mixed))
        parts = [draw(count, length, generator) for draw, count in draws if count]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def draw(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows lie that `windows` would read.

        Args:
            batch: B windows.
            length: T frames of each.
            generator: what they are drawn with.

        Returns:
            (B,) numbers of sequences, and (B,) first frames within them.

        Raises:
            UsageError: every sequence is shorter than `length`.
        """
        legal = self._count(length, lambda lengths: np.maximum(lengths - length + 1, 0))
        ends = np.cumsum(legal)
        number = generator.integers(ends[-1], size=batch)
        which = np.searchsorted(ends, number, side="right")
        return which, number - (ends - legal)[which]

    def num_ordered(self, length: int) -> int:
        """Windows that `ordered` has.

        Raises:
            UsageError: every sequence is shorter than `length`.
        """
        return int(self._count(length, lambda lengths: lengths // length).sum())

    def ordered(self, length: int, count: int, *, first: int = 0) -> dict[str, np.ndarray]:
        """Windows without a frame in common, in one fixed order: the first of each sequence, then the second, and so on.

        Args:
            length: T frames of each.
            count: windows at most; fewer come where there are no more.
            first: how many to leave out at the start.

        Returns:
            As of `windows`.

        Raises:
            UsageError: every sequence is shorter than `length`, or the file is damaged.
        """
        available = self._count(length, lambda lengths: lengths // length)
        which = np.repeat(np.arange(len(self)), available)
        rank = np.arange(len(which)) - np.repeat(np.cumsum(available) - available, available)
        order = np.lexsort((which, rank))[first : first + count]
        return self._read(which[order], rank[order] * length, length)

    def stretch(self, number: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Consecutive frames of one sequence.

        Args:
            number: of the sequence, from 0.
            start: number of the first frame in it, from 0.
            stop: number of the first frame that is left out; the end of the sequence, where that is before.

        Returns:
            As of `windows`, without the axis of windows.

        Raises:
            UsageError: no such sequence or frame, or the file is damaged.
        """
        if not 0 <= number < len(self):
            raise UsageError(f"{self.path} has sequences 0 to {len(self) - 1}, not {number}")
        length = int(self.lengths[number])
        if not 0 <= start < min(stop, length):
            raise UsageError(f"sequence {number} of {self.path} has {length} frames, none from {start} to {stop}")
        batch = self._read(np.array([number]), np.array([start]), min(stop, length) - start)
        return {name: values[0] for name, values in batch.items()}

    def _consecutive(self, batch: int, length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return self._read(*self.draw(batch, length, generator), length)

    def _mixed(self, batch: int, length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        which, offset = self.draw(batch * length, 1, generator)
        if self.labels is not None:
            for row, label in enumerate(self.labels[which[::length]]):
                of_class, here = np.flatnonzero(self.labels == label), slice(row * length, (row + 1) * length)
                chosen, offset[here] = self._part(of_class).draw(length, 1, generator)
                which[here] = of_class[chosen]
        drawn = self._read(which, offset, 1)
        # Frames one by one become windows; of their labels, which are one for a window, the first is left.
        shaped = {name: part.reshape(batch, length, *part.shape[1 + (name in PER_FRAME) :]) for name, part in drawn.items()}
        return {name: part if name in PER_FRAME else part[:, 0] for name, part in shaped.items()}

    def _part(self, chosen: np.ndarray) -> Sequences:
        part = Sequences.__new__(Sequences)
        part._store, part._chosen = self._store, self._chosen[chosen]
        return part

    def _count(self, length: int, windows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if length < 1:
            raise UsageError(f"a window must have at least 1 frame, not {length}")
        longest = int(self.lengths.max())
        if longest < length:
            raise UsageError(
                f"windows of {length} frames need a sequence of at least {length}; the longest in {self.path} has {longest}"
            )
        return windows(self.lengths)

    def _read(self, which: np.ndarray, offset: np.ndarray, length: int) -> dict[str, np.ndarray]:
        sequence = self._chosen[which]
        starts = self._store.starts[sequence] + offset
        batch = {name: self._store.windows(name, starts, length) for name in PER_FRAME if name in self._store.shapes}
        if self._store.labels is not None:
            batch["labels"] = self._store.labels[sequence]
        return batch


class _Store:
    """The datasets of one file, checked; what is held in memory and what is read."""

    def __init__(self, path: Path, memory: int) -> None:
        self.path, self.memory = path, memory
        self._held: dict[str, np.ndarray] = {}
        self._opened: tuple[int, h5py.File] | None = None
        if not path.is_file():
            raise UsageError(f"no sequences at {path}")
        with damage_of(path):
            if not h5py.is_hdf5(path):
                raise UsageError(f"{path} holds no sequences: it is no HDF5 file, or its beginning is damaged")
            file = self._file()
            self.header, self.digest = _read_header(file, path)
            self.shapes = _check_datasets(file, path)
            self.lengths = file["lengths"][:]
            self.labels = file["labels"][:] if "labels" in file else None
        self.starts = np.cumsum(self.lengths) - self.lengths
        self._check_contents()
        self._to_hold = self._choose()

    def windows(self, name: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows `starts[i]` to `starts[i] + length` of a dataset, (B, length, ...)."""
        windows = np.empty((len(starts), length, *self.shapes[name][1:]), TYPES[name])
        if name in self._to_hold:
            held = self._hold(name)
            for index, start in enumerate(starts):
                windows[index] = held[start : start + length]
            return windows
        with damage_of(self.path):
            dataset = self._file()[name]
            # In the file's order, neighbours share the chunks that HDF5 has just unpacked.
            for index in np.argsort(starts, kind="stable"):
                start = int(starts[index])
                dataset.read_direct(windows, np.s_[start : start + length], np.s_[index])
        return windows

    def compute_digest(self) -> str:
        digests = {name: hashlib.sha256() for name in self.shapes}
        for name, digest in digests.items():
            for piece in self._stream(name):
                digest.update(np.ascontiguousarray(piece).data)
        return combine_digests(self.header, digests)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_held": {}}

    def _file(self) -> h5py.File:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self.path, "r"))
        return self._opened[1]

    def _stream(self, name: str) -> Iterator[np.ndarray]:
        shape = self.shapes[name]
        step = piece_rows(shape[1:], TYPES[name])
        for start in range(0, shape[0], step):
            with damage_of(self.path):
                piece = self._file()[name][start : start + step]
            yield piece

    def _hold(self, name: str) -> np.ndarray:
        if name not in self._held:
            held = np.empty(self.shapes[name], TYPES[name])
            filled = 0
            for piece in self._stream(name):
                held[filled : filled + len(piece)] = piece
                filled += len(piece)
            self._held[name] = held
        return self._held[name]

    def _choose(self) -> set[str]:
        sizes = {name: int(np.prod(self.shapes[name])) * np.dtype(TYPES[name]).itemsize for name in self.shapes}
        chosen, left = set(), self.memory
        for name in sorted(set(sizes) & set(PER_FRAME), key=sizes.__getitem__):
            left -= sizes[name]
            if left < 0:
                break
            chosen.add(name)
        return chosen

    def _check_contents(self) -> None:
        frames = self.shapes["frames"][0]
        if not len(self.lengths):
            raise UsageError(f"{self.path} holds no sequences: it is empty")
        if self.lengths.min() < 1 or self.lengths.max() > frames or int(self.lengths.sum()) != frames:
            raise UsageError(f"{self.path} holds no sequences: their lengths do not add up to its {frames} frames")
        classes = len(self.header["label_names"])
        if self.labels is not None and (self.labels.min() < 0 or self.labels.max() >= classes):
            raise UsageError(f"{self.path} holds labels outside its {classes} classes")
        points = len(self.header["truth_names"])
        if "truth" in self.shapes and self.shapes["truth"][1] != points:
            raise UsageError(f"{self.path} holds the truth of {self.shapes['truth'][1]} points, but names of {points}")
        for name in ("actions", "rewards", "truth"):
            if name not in self.shapes:
                continue
            row = 0
            for piece in self._stream(name):
                wrong = np.isinf(piece) if name == "truth" else ~np.isfinite(piece)
                if wrong.any():
                    row += int(np.argmax(wrong.reshape(len(piece), -1).any(axis=1)))
                    sequence = int(np.searchsorted(self.starts, row, side="right")) - 1
                    frame = row - int(self.starts[sequence])
                    what = "infinity" if name == "truth" else "NaN or infinity"
                    raise UsageError(f"{self.path} has {what} in {name}: sequence {sequence}, frame {frame}")
                row += len(piece)


def _read_header(file: h5py.File, path: Path) -> tuple[dict[str, Any], str]:
    try:
        header = json.loads(bytes(file.attrs["header"]))
        digest = bytes(file.attrs["digest"]).decode("ascii")
        version = header["format"]
    except (KeyError, ValueError, TypeError):
        raise UsageError(
            f"{path} holds no sequences of kpagent: it is HDF5 without their header, or that is damaged"
        ) from None
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise UsageError(f"{path} has format {version!r}, where this kpagent reads formats {known}")
    for name in ("truth_names", "label_names"):
        names = header.get(name)
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise UsageError(f"{path} holds no sequences of kpagent: {name} in its header is no list of names")
    return header, digest


def _check_datasets(file: h5py.File, path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the datasets, by name."""
    shapes = {}
    for name, kind in TYPES.items():
        if name not in file:
            if name in ("frames", "lengths"):
                raise UsageError(f"{path} holds no sequences of kpagent: it has no dataset {name!r}")
            continue
        dataset = file[name]
        inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if not isinstance(dataset, h5py.Dataset) or not inside or dataset.is_virtual or dataset.external:
            raise UsageError(f"{path} holds no sequences of kpagent: {name!r} is no dataset of its own")
        if dataset.dtype != np.dtype(kind):
            raise UsageError(f"{path} has {name} of type {dataset.dtype}, not {kind}")
        if not fits(name, dataset.shape):
            raise UsageError(f"{path} has {name} of shape {dataset.shape}, not {FORMS[name]}")
        shapes[name] = tuple(dataset.shape)
    for name, shape in shapes.items():
        first = "lengths" if name in PER_SEQUENCE else "frames"
        if shape[0] != shapes[first][0]:
            raise UsageError(f"{path} has {name} of {shape[0]} rows beside {first} of {shapes[first][0]}")
    return shapes
