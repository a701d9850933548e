"""The frames behind the rows of a `SegmentReplay`, compressed without loss, in a file that only grows.

Keypoints are what an agent learns from, so a replay has no frames. Where perception itself goes on learning, it needs them,
and the rows must be encoded again. The file is written as the rows are, so that a killed run has it too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kpagent.errors import UsageError

_MAGIC = b"kpagent frame log 1\n"
_HEADER = struct.Struct("<III")
_RECORD = struct.Struct("<IQI")
_NOTHING = -1


class FrameLog:
    """The newest frames of each copy of an environment; rows are counted from the first that was ever written.

    A frame of Atari at 84×84 takes 0.4 KB (Pong) to 2.6 KB (Ms. Pac-Man) and under a tenth of a millisecond. In memory
    there are 20 bytes a row.

    Args:
        path: of the file.
        num_envs: copies.
        rows: kept of each copy, as in the replay.
        image_size: S of the frames.
        written: (num_envs,) rows that the replay has of each copy: the file is taken up, and what lies beyond is forgotten.
            Without, the file is begun anew.

    Raises:
        UsageError: the file cannot be written, or is to be taken up and holds no such frames.
    """

    def __init__(
        self, path: str | Path, num_envs: int, rows: int, image_size: int, *, written: np.ndarray | None = None
    ) -> None:
        self.path, self.num_envs, self.rows, self.image_size = Path(path), num_envs, rows, image_size
        self._row = np.full((num_envs, rows), _NOTHING, np.int64)
        self._start = np.zeros((num_envs, rows), np.int64)
        self._length = np.zeros((num_envs, rows), np.int32)
        head = _MAGIC + _HEADER.pack(num_envs, rows, image_size)
        resume = written is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a kill interrupts is one record at most.
            self._file = self.path.open("r+b" if resume else "w+b", buffering=0)
        except OSError as error:
            raise UsageError(f"cannot open {self.path}, the frames of the run: {(error.strerror or '').lower()}") from error
        self._end = len(head)
        if written is None:
            self._append(head, 0)
        elif self._file.read(len(head)) != head:
            self._file.close()
            raise UsageError(f"{self.path} does not hold the frames of {num_envs} environments with {rows} rows each")
        else:
            self._index(written)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return self._end

    def compress(self, frame: np.ndarray) -> bytes:
        """What `add` stores of one (S, S, 3) uint8 frame.

        Raises:
            ValueError: of another shape or type.
        """
        shape = (self.image_size, self.image_size, 3)
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"frames must be {shape} uint8, not {frame.shape} {frame.dtype}")
        return zlib.compress(frame.tobytes(), 1)

    def add(self, envs: Sequence[int], rows: Sequence[int], frames: Sequence[bytes | None]) -> None:
        """Store compressed frames; what was stored of the same rows before, and of those a ring's length ago, is forgotten.

        Args:
            envs: (N,) copies.
            rows: (N,) rows of theirs.
            frames: (N,), of `compress`; None for a row whose frame is not known.

        Raises:
            UsageError: the file cannot be written.
        """
        records = []
        at = self._end
        for env, row, frame in zip(envs, rows, frames, strict=True):
            content = frame or b""
            records.append(_RECORD.pack(env, row, len(content)) + content)
            self._enter(env, row, at + _RECORD.size, len(content))
            at += len(records[-1])
        self._append(b"".join(records), self._end)

    def has(self, env: int, rows: np.ndarray) -> np.ndarray:
        """Which rows of a copy have a frame, (N,) bool."""
        place = rows % self.rows
        return (self._row[env, place] == rows) & (self._length[env, place] > 0)

    def read(self, envs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Frames of rows that have one, (N, S, S, 3) uint8.

        Args:
            envs: (N,) copies.
            rows: (N,) rows of theirs.

        Raises:
            KeyError: a row has no frame.
            UsageError: the file was damaged.
        """
        shape = (self.image_size, self.image_size, 3)
        frames = np.empty((len(rows), *shape), np.uint8)
        for index, (env, row) in enumerate(zip(envs.tolist(), rows.tolist(), strict=True)):
            place = env, row % self.rows
            if self._row[place] != row or not self._length[place]:
                raise KeyError(f"no frame of row {row} of environment {env}")
            self._file.seek(int(self._start[place]))
            try:
                content = zlib.decompressobj().decompress(self._file.read(int(self._length[place])), frames[0].nbytes)
                frames[index] = np.frombuffer(content, np.uint8).reshape(shape)
            except (zlib.error, ValueError):
                raise UsageError(f"{self.path} is damaged: the frame of row {row} cannot be read") from None
        return frames

    def _append(self, content: bytes, at: int) -> None:
        try:
            self._file.seek(at)
            done = self._file.write(content)
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {(error.strerror or '').lower()}") from error
        if done != len(content):
            raise UsageError(f"cannot write {self.path}: the disk is full")
        self._end = at + len(content)

    def _enter(self, env: int, row: int, start: int, length: int) -> None:
        place = env, row % self.rows
        self._row[place], self._start[place], self._length[place] = row, start, length

    def _index(self, written: np.ndarray) -> None:
        """Find the records; a row that was written twice, before and after a kill, counts as it was written last."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            while self._end + _RECORD.size <= size:
                file.seek(self._end)
                env, row, length = _RECORD.unpack(file.read(_RECORD.size))
                if self._end + _RECORD.size + length > size:
                    break
                if env >= self.num_envs:
                    raise UsageError(f"{self.path} is damaged: there is no environment {env}")
                if row < written[env]:
                    self._enter(env, row, self._end + _RECORD.size, length)
                self._end += _RECORD.size + length
