"""Making sequences of frames: block by block into one file, so that a killed making goes on where it stood."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from kpagent.collect.guarded_file import GuardedFile
from kpagent.collect.sequence_file import (
    FORMAT,
    FORMS,
    PER_FRAME,
    PIECE_BYTES,
    READABLE,
    TYPES,
    combine_digests,
    damage_of,
    fits,
    piece_rows,
)
from kpagent.collect.sequences import Sequences
from kpagent.collect.worker_pool import run_in_workers
from kpagent.errors import UsageError
from kpagent.files import replace_file, write_json

# The first of HDF5's file formats of which every piece has a checksum, and the newest that all its releases since 2016 read.
_LIBRARY = ("v110", "v110")
_CHUNK_BYTES = 49_152

_Form = dict[str, tuple[int, ...]]


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
        keyframes: (T,) bool, whether the frame is a keyframe of its sequence; or None.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    truth: np.ndarray | None = None
    label: int | None = None
    continues: bool = False
    keyframes: np.ndarray | None = None


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
    workers: int = 1,
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
        workers: processes that make blocks, as of `run_in_workers`; each gets a copy of `source`. 1 makes them in this one.
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
    if workers != 1:
        _make_in_workers(source, parts, block, workers, listen)
    for start in range(0, source.count, block):
        stop = min(start + block, source.count)
        part = _part(parts, start)
        if not part.is_file():
            writer = _PartWriter(source, start, stop, form)
            replace_file(part, writer.write)
            form = writer.form
        files.append(part)
        if listen is not None and workers == 1:
            listen(SequencesProgress(stop, source.count, 0.0))
    whole = parts / "whole.h5"
    told = None if listen is None else lambda share: listen(SequencesProgress(source.count, source.count, share))
    replace_file(whole, lambda beside: _join(files, beside, header, told))
    try:
        whole.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or '').lower()}") from error
    _remove(parts)


class _Writer:
    """Datasets that grow, and the digests of what went into them."""

    def __init__(self, file: h5py.File) -> None:
        self.digests: dict[str, Any] = {}
        self._file = file

    def add(self, name: str, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, TYPES[name])
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
            for name in PER_FRAME:
                value = getattr(sequence, name)
                if value is not None:
                    waiting.setdefault(name, []).append(value)
                    size += value.nbytes
            if size >= PIECE_BYTES:
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
        for name in PER_FRAME:
            value = getattr(sequence, name)
            if value is None:
                continue
            if not fits(name, value.shape) or len(value) != len(frames):
                raise UsageError(f"{where} has {name} {value.shape} for {len(frames)} frames, not {FORMS[name]}")
            if name == "keyframes" and value.dtype != np.bool_:
                raise UsageError(f"{where} has keyframes of {value.dtype}, not bool")
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


class _PartMaker:
    """Writes one block at a time, in whatever process it is called."""

    def __init__(self, source: SequenceSource, parts: Path) -> None:
        self._source, self._parts = source, parts

    def __call__(self, start: int, stop: int) -> int:
        replace_file(_part(self._parts, start), _PartWriter(self._source, start, stop, None).write)
        return stop - start


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:09d}.h5"


def _make_in_workers(
    source: SequenceSource,
    parts: Path,
    block: int,
    workers: int,
    listen: Callable[[SequencesProgress], None] | None,
) -> None:
    """Make the blocks that are missing."""
    blocks = [(start, min(start + block, source.count)) for start in range(0, source.count, block)]
    missing = [(start, stop) for start, stop in blocks if not _part(parts, start).is_file()]
    done = source.count - sum(stop - start for start, stop in missing)
    for units in run_in_workers(_PartMaker(source, parts), missing, workers):
        done += units
        if listen is not None:
            listen(SequencesProgress(done, source.count, 0.0))


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
            with damage_of(part), h5py.File(part, "r") as block:
                if len(block["lengths"]):
                    form = {name: block[name].shape[1:] for name in (*PER_FRAME, "labels") if name in block}
                    _require_same_form(expected or form, form, f"the part {part}")
                    expected = form
                    for name in (*form, "lengths"):
                        step = piece_rows(form.get(name, ()), TYPES[name])
                        for start in range(0, len(block[name]), step):
                            writer.add(name, block[name][start : start + step])
            if told is not None:
                told((number + 1) / len(files))
        if expected is None:
            raise UsageError(f"{header['name']} gave no sequence")
        # HDF5 keeps text of variable length where no checksum covers it.
        file.attrs["header"] = np.bytes_(json.dumps(header, sort_keys=True).encode())
        file.attrs["digest"] = np.bytes_(combine_digests(header, writer.digests).encode())

    _write_hdf5(path, fill)


def _write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    with path.open("w+b", buffering=0) as raw:
        guarded = GuardedFile(raw)
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


def _read_plan(plan: Path) -> Any:
    try:
        return json.loads(plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot take up what lies in {plan.parent}, make it anew: {error}") from error


def _require_same(found: Any, wanted: dict[str, Any], where: Path) -> None:
    # What an older format holds is the same in the newer one.
    if isinstance(found, dict) and found.get("format") in READABLE:
        found = found | {"format": wanted["format"]}
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
