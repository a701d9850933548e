"""Sequences of frames on disk, read a window at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.collect.sequence_file import PER_FRAME
from kpagent.collect.sequence_store import SequenceStore
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
        self._store = SequenceStore(Path(path), memory)
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
