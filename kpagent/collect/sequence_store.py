"""The file beneath `Sequences`: its datasets, checked; what is held in memory and what is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
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


class SequenceStore:
    """The datasets of one file of sequences.

    Args:
        path: of the file.
        memory: bytes that may be held.

    Raises:
        UsageError: as of `Sequences`.

    Attributes:
        header: plain JSON values.
        digest: of header and contents, as it was written.
        shapes: of the datasets, by name.
        lengths: (N,) frames of each sequence.
        starts: (N,) the row of its first.
        labels: (N,) classes, if there are any.
    """

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
        """Of all that is in the file now."""
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
