"""Sequences of frames on disk: made block by block, so that a killed making goes on, and read a window at a time.

One HDF5 file holds all sequences, one after the other:

| dataset | shape and type | what |
|---|---|---|
| `frames` | (F, S, S, 3) uint8 | RGB |
| `lengths` | (N,) int64 | frames of each sequence; they add up to F |
| `actions` | (F, A) float32, optional | the action taken on frame t, which leads to frame t + 1 |
| `rewards` | (F,) float32, optional | what followed that action |
| `truth` | (F, P, 2) float32, optional | true coordinates (x, y), as `kpagent.keypoints` has them; NaN where not known |
| `labels` | (N,) int64, optional | the class of each sequence |

The attribute `header` is JSON (`Provenance` and more), `digest` a SHA-256 of header and contents. Every chunk, and every
piece of HDF5's own bookkeeping, carries a checksum: damage is found when it is read, without reading the whole file first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from kpagent.collect.pairs import _Guarded
from kpagent.errors import UsageError
from kpagent.files import replace_file, write_json

FORMAT = 1

MEMORY = 1_500_000_000
"""Bytes that `Sequences` holds in memory unless told otherwise."""

_PER_FRAME = ("frames", "actions", "rewards", "truth")
_PER_SEQUENCE = ("lengths", "labels")
_TYPES = {"frames": "uint8", "actions": "float32", "rewards": "float32", "truth": "float32"} | dict.fromkeys(
    _PER_SEQUENCE, "int64"
)
_FORMS = {"frames": "(F, S, S, 3)", "actions": "(F, A)", "rewards": "(F,)", "truth": "(F, P, 2)"} | dict.fromkeys(
    _PER_SEQUENCE, "(N,)"
)
# The first of HDF5's file formats of which every piece has a checksum, and the newest that all its releases since 2016 read.
_LIBRARY = ("v110", "v110")
_CHUNK_BYTES = 49_152
_PIECE_BYTES = 16_000_000
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, eq=False)
class FrameSequence:
    """Consecutive frames and what is known of them.

    Attributes:
        frames: (T, S, S, 3) uint8.
        actions: (T, A) float32, taken on frame t, leading to frame t + 1; or None.
        rewards: (T,) float32, following that action; or None.
        truth: (T, P, 2) float32 coordinates (x, y), NaN where not known; or None.
        label: class; or None.
        continues: whether these frames follow those that came before in one sequence, which is how a long sequence is handed
            over in pieces.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    truth: np.ndarray | None = None
    label: int | None = None
    continues: bool = False


@dataclass(frozen=True)
class Provenance:
    """Where sequences come from; it goes into the header, and a making is taken up only by one that has the same."""

    source: str
    """What made them: "basketball", "videos", "human36m", "env"."""
    name: str
    """Of the dataset, the folder or the env."""
    config: Mapping[str, Any]
    """All else that the contents depend on, as plain JSON values."""
    seed: int | None = None
    """Of all that is random; None where nothing is."""
    truth_names: tuple[str, ...] = ()
    """(P,) names of the points in `truth`."""
    label_names: tuple[str, ...] = ()
    """Names of the classes in `labels`."""


class SequenceSource(Protocol):
    """What `write_sequences` writes: units, each made from its number alone, whatever was made before it."""

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""

    @property
    def count(self) -> int:
        """Number of units; most sources make one sequence of each."""

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """The sequences of units `start` to `stop`, in order."""


@dataclass(frozen=True)
class SequencesProgress:
    """How far a making has come."""

    done: int
    """Units made."""
    count: int
    """Units in all."""
    joined: float
    """Share of the blocks that were joined into the file, from 0 to 1: the last stage."""


def write_sequences(
    path: str | Path,
    source: SequenceSource,
    *,
    block: int = 256,
    resume: bool = False,
    listen: Callable[[SequencesProgress], None] | None = None,
) -> None:
    """Make all sequences of `source` and write them to one HDF5 file, which is whole or not there.

    Blocks of units are kept beside the file, in the folder `.NAME-parts`, until the last is made and all are joined. A
    making that was killed is taken up with `resume` at the first block that is missing, and gives the same digest as one
    that ran through. Memory is bounded by what `source` makes at once, about 50 MB, and 16 bytes a sequence.

    Args:
        path: ends in .h5 by custom.
        source: what to write.
        block: units made between two points at which the making can be taken up.
        resume: take up what a killed making left; a file that is finished is left as it is. Without, all is made anew.
        listen: is told of progress.

    Raises:
        UsageError: nothing to write, sequences that do not fit together, NaN or infinity in actions or rewards, parts or a
            file from other settings, or a file that cannot be written.
    """
    path = Path(path)
    if block < 1:
        raise UsageError(f"block must be at least 1, not {block}")
    if source.count < 1:
        raise UsageError(f"there is nothing in {source.provenance.name} to make sequences of")
    header = json.loads(json.dumps(_header(source)))
    if resume and path.is_file():
        _require_same(Sequences(path).header, header, path)
        return
    parts = path.with_name(f".{path.stem}-parts")
    plan = parts / "plan.json"
    if resume and plan.is_file():
        _require_same(_read_plan(plan), header | {"block": block}, parts)
    else:
        _remove(parts)
        write_json(plan, header | {"block": block})
    files = []
    form: _Form | None = None
    for start in range(0, source.count, block):
        stop = min(start + block, source.count)
        part = parts / f"{start:09d}.h5"
        if not part.is_file():
            writer = _PartWriter(source, start, stop, form)
            replace_file(part, writer.write)
            form = writer.form
        files.append(part)
        if listen is not None:
            listen(SequencesProgress(stop, source.count, 0.0))
    whole = parts / "whole.h5"
    told = None if listen is None else lambda share: listen(SequencesProgress(source.count, source.count, share))
    replace_file(whole, lambda beside: _join(files, beside, header, told))
    try:
        whole.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or '').lower()}") from error
    _remove(parts)


class Sequences:
    """Sequences in a file of `write_sequences`, or a part of them, read a window at a time.

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

    def windows(self, batch: int, length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Random windows of consecutive frames of one sequence each, every legal one with the same probability.

        Args:
            batch: B windows.
            length: T frames of each.
            generator: what they are drawn with.

        Returns:
            frames (B, T, S, S, 3) uint8 and, where the file has them, actions (B, T, A), rewards (B, T), truth (B, T, P, 2),
            all float32, and labels (B,) int64.

        Raises:
            UsageError: every sequence is shorter than `length`, or the file is damaged.
        """
        legal = self._count(length, lambda lengths: np.maximum(lengths - length + 1, 0))
        ends = np.cumsum(legal)
        number = generator.integers(ends[-1], size=batch)
        which = np.searchsorted(ends, number, side="right")
        return self._read(which, number - (ends - legal)[which], length)

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
        batch = {name: self._store.windows(name, starts, length) for name in _PER_FRAME if name in self._store.shapes}
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
        with _damage_of(path):
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
        windows = np.empty((len(starts), length, *self.shapes[name][1:]), _TYPES[name])
        if name in self._to_hold:
            held = self._hold(name)
            for index, start in enumerate(starts):
                windows[index] = held[start : start + length]
            return windows
        with _damage_of(self.path):
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
        return _combine(self.header, digests)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_held": {}}

    def _file(self) -> h5py.File:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self.path, "r"))
        return self._opened[1]

    def _stream(self, name: str) -> Iterator[np.ndarray]:
        shape = self.shapes[name]
        step = _piece_rows(shape[1:], _TYPES[name])
        for start in range(0, shape[0], step):
            with _damage_of(self.path):
                piece = self._file()[name][start : start + step]
            yield piece

    def _hold(self, name: str) -> np.ndarray:
        if name not in self._held:
            held = np.empty(self.shapes[name], _TYPES[name])
            filled = 0
            for piece in self._stream(name):
                held[filled : filled + len(piece)] = piece
                filled += len(piece)
            self._held[name] = held
        return self._held[name]

    def _choose(self) -> set[str]:
        sizes = {name: int(np.prod(self.shapes[name])) * np.dtype(_TYPES[name]).itemsize for name in self.shapes}
        chosen, left = set(), self.memory
        for name in sorted(set(sizes) & set(_PER_FRAME), key=sizes.__getitem__):
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


_Form = dict[str, tuple[int, ...]]


class _Writer:
    """Datasets that grow, and the digests of what went into them."""

    def __init__(self, file: h5py.File) -> None:
        self.digests: dict[str, Any] = {}
        self._file = file

    def add(self, name: str, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, _TYPES[name])
        if name not in self._file:
            row_bytes = max(int(np.prod(rows.shape[1:])) * rows.itemsize, 1)
            self._file.create_dataset(
                name,
                (0, *rows.shape[1:]),
                rows.dtype,
                maxshape=(None, *rows.shape[1:]),
                chunks=(max(_CHUNK_BYTES // row_bytes, 1), *rows.shape[1:]),
                compression="gzip",
                compression_opts=1,
                fletcher32=True,
            )
            self.digests[name] = hashlib.sha256()
        dataset = self._file[name]
        filled = len(dataset)
        dataset.resize(filled + len(rows), axis=0)
        dataset[filled:] = rows
        self.digests[name].update(rows.data)


class _PartWriter:
    """One block of units as a file; `form` is what sequences look like, from the first that was seen on."""

    def __init__(self, source: SequenceSource, start: int, stop: int, form: _Form | None) -> None:
        self.form = form
        self._source, self._start, self._stop = source, start, stop

    def write(self, path: Path) -> None:
        _write_hdf5(path, self._fill)

    def _fill(self, file: h5py.File) -> None:
        writer = _Writer(file)
        lengths: list[int] = []
        labels: list[int] = []
        waiting: dict[str, list[np.ndarray]] = {}
        size = 0
        for sequence in self._source.make(self._start, self._stop):
            self._check(sequence, len(lengths))
            if sequence.continues and lengths:
                lengths[-1] += len(sequence.frames)
            else:
                lengths.append(len(sequence.frames))
                if sequence.label is not None:
                    labels.append(sequence.label)
            for name in _PER_FRAME:
                value = getattr(sequence, name)
                if value is not None:
                    waiting.setdefault(name, []).append(value)
                    size += value.nbytes
            if size >= _PIECE_BYTES:
                _flush(writer, waiting)
                size = 0
        _flush(writer, waiting)
        writer.add("lengths", np.array(lengths, np.int64))
        if labels:
            writer.add("labels", np.array(labels, np.int64))

    def _check(self, sequence: FrameSequence, number: int) -> None:
        where = f"sequence {number} of those from unit {self._start} of {self._source.provenance.name}"
        frames = sequence.frames
        if frames.ndim != 4 or frames.shape[1] != frames.shape[2] or frames.shape[3] != 3 or 0 in frames.shape:
            raise UsageError(f"{where} has frames {frames.shape}, not (T, S, S, 3)")
        if frames.dtype != np.uint8:
            raise UsageError(f"{where} has frames of {frames.dtype}, not uint8")
        form: _Form = {}
        for name in _PER_FRAME:
            value = getattr(sequence, name)
            if value is None:
                continue
            if not _fits(name, value.shape) or len(value) != len(frames):
                raise UsageError(f"{where} has {name} {value.shape} for {len(frames)} frames, not {_FORMS[name]}")
            if name in ("actions", "rewards") and not np.isfinite(value).all():
                raise UsageError(f"{where} has NaN or infinity in {name}")
            if name == "truth" and np.isinf(value).any():
                raise UsageError(f"{where} has infinity in truth")
            form[name] = value.shape[1:]
        provenance = self._source.provenance
        if "truth" in form and form["truth"][0] != len(provenance.truth_names):
            raise UsageError(f"{where} has {form['truth'][0]} points of truth and {len(provenance.truth_names)} names")
        if sequence.label is not None:
            form["labels"] = ()
            if not 0 <= sequence.label < len(provenance.label_names):
                raise UsageError(f"{where} has label {sequence.label} of {len(provenance.label_names)} classes")
        if self.form is None:
            self.form = form
        _require_same_form(self.form, form, where)


def _flush(writer: _Writer, waiting: dict[str, list[np.ndarray]]) -> None:
    for name, values in waiting.items():
        writer.add(name, np.concatenate(values))
    waiting.clear()


def _require_same_form(expected: _Form, found: _Form, where: str) -> None:
    if set(expected) != set(found):
        raise UsageError(f"{where} has {', '.join(found)}, where those before have {', '.join(expected)}")
    for name, shape in expected.items():
        if found[name] == shape:
            continue
        if name == "frames":
            raise UsageError(f"{where} has frames of size {found[name][0]}, where those before have {shape[0]}: mixed sizes")
        raise UsageError(f"{where} has {name} of {found[name]} a frame, where those before have {shape}")


def _join(files: list[Path], path: Path, header: dict[str, Any], told: Callable[[float], None] | None) -> None:
    def fill(file: h5py.File) -> None:
        writer = _Writer(file)
        expected: _Form | None = None
        for number, part in enumerate(files):
            with _damage_of(part), h5py.File(part, "r") as block:
                if len(block["lengths"]):
                    form = {name: block[name].shape[1:] for name in (*_PER_FRAME, "labels") if name in block}
                    _require_same_form(expected or form, form, f"the part {part}")
                    expected = form
                    for name in (*form, "lengths"):
                        step = _piece_rows(form.get(name, ()), _TYPES[name])
                        for start in range(0, len(block[name]), step):
                            writer.add(name, block[name][start : start + step])
            if told is not None:
                told((number + 1) / len(files))
        if expected is None:
            raise UsageError(f"{header['name']} gave no sequence")
        # HDF5 keeps text of variable length where no checksum covers it.
        file.attrs["header"] = np.bytes_(json.dumps(header, sort_keys=True).encode())
        file.attrs["digest"] = np.bytes_(_combine(header, writer.digests).encode())

    _write_hdf5(path, fill)


def _write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    with path.open("w+b", buffering=0) as raw:
        guarded = _Guarded(raw)
        try:
            with h5py.File(guarded, "w", libver=_LIBRARY) as file:
                fill(file)
        except (OSError, RuntimeError, UsageError):
            if guarded.error is None:
                raise
        if guarded.error is not None:
            raise guarded.error


def _header(source: SequenceSource) -> dict[str, Any]:
    versions = {}
    for name in ("kpagent", "gymnasium", "h5py", "numpy", "opencv-python-headless"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"format": FORMAT, **dataclasses.asdict(source.provenance), "units": source.count, "versions": versions}


def _read_header(file: h5py.File, path: Path) -> tuple[dict[str, Any], str]:
    try:
        header = json.loads(bytes(file.attrs["header"]))
        digest = bytes(file.attrs["digest"]).decode("ascii")
        version = header["format"]
    except (KeyError, ValueError, TypeError):
        raise UsageError(
            f"{path} holds no sequences of kpagent: it is HDF5 without their header, or that is damaged"
        ) from None
    if version != FORMAT:
        raise UsageError(f"{path} has format {version!r}, where this kpagent reads format {FORMAT}")
    for name in ("truth_names", "label_names"):
        names = header.get(name)
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise UsageError(f"{path} holds no sequences of kpagent: {name} in its header is no list of names")
    return header, digest


def _check_datasets(file: h5py.File, path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the datasets, by name."""
    shapes = {}
    for name, kind in _TYPES.items():
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
        if not _fits(name, dataset.shape):
            raise UsageError(f"{path} has {name} of shape {dataset.shape}, not {_FORMS[name]}")
        shapes[name] = tuple(dataset.shape)
    for name, shape in shapes.items():
        first = "lengths" if name in _PER_SEQUENCE else "frames"
        if shape[0] != shapes[first][0]:
            raise UsageError(f"{path} has {name} of {shape[0]} rows beside {first} of {shapes[first][0]}")
    return shapes


def _fits(name: str, shape: tuple[int, ...] | None) -> bool:
    if shape is None or len(shape) != _FORMS[name].count(",") + (not _FORMS[name].endswith(",)")):
        return False
    if 0 in shape[1:]:
        return False
    if name == "frames":
        return shape[1] == shape[2] and shape[3] == 3
    return name != "truth" or shape[2] == 2


def _combine(header: Mapping[str, Any], digests: Mapping[str, Any]) -> str:
    whole = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(digests):
        whole.update(f"{name}:{digests[name].hexdigest()};".encode())
    return whole.hexdigest()


def _piece_rows(row_shape: tuple[int, ...], kind: str) -> int:
    return max(_PIECE_BYTES // max(int(np.prod(row_shape)) * np.dtype(kind).itemsize, 1), 1)


def _read_plan(plan: Path) -> Any:
    try:
        return json.loads(plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot take up what lies in {plan.parent}, make it anew: {error}") from error


def _require_same(found: Any, wanted: dict[str, Any], where: Path) -> None:
    if found == wanted:
        return
    other = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
    raise UsageError(f"{where} was made with another {', '.join(other) or 'header'}: make it anew, or elsewhere")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"cannot remove {folder}: {(error.strerror or '').lower()}") from error


@contextlib.contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """What HDF5 says of a file that it cannot read, as one line that names the file."""
    try:
        yield
    except UsageError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        if "truncated" in reason:
            raise UsageError(f"{path} is cut short: {reason}") from error
        raise UsageError(f"{path} is damaged and cannot be read: {reason}") from error
