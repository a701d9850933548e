"""Sequences of codes in memory: those of a perception model's keypoints, or what a user has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from kpagent.collect.sequences import Sequences
from kpagent.errors import UsageError
from kpagent.subgoals.perceived import coordinates

CHUNK = 256
"""Frames that are encoded at once."""


class Perception(Protocol):
    """What makes keypoints of frames."""

    def encode(self, frames: Any) -> Any:
        """`Keypoints` of (N, H, W, 3) uint8."""


class CodeSequences:
    """Sequences of codes, with what `Sequences` offers to a training.

    Args:
        codes: (L, D) of each sequence, one length or several.
        where: they come from, for messages.

    Raises:
        UsageError: there is none, they are no arrays (L, D) of one D, or NaN or infinity is among them.
    """

    name = "codes"

    def __init__(self, codes: Sequence[np.ndarray], where: str = "the codes") -> None:
        self.where = where
        if not len(codes):
            raise UsageError(f"{where}: there is no sequence")
        self.codes = [np.asarray(one, np.float32) for one in codes]
        widths = {one.shape[1] if one.ndim == 2 else None for one in self.codes}
        if None in widths or len(widths) > 1:
            found = sorted({str(one.shape) for one in self.codes})
            raise UsageError(
                f"{where}: sequences of codes must be (frames, numbers), with as many numbers each; got {found[:3]}"
            )
        if not all(np.isfinite(one).all() for one in self.codes):
            raise UsageError(f"{where}: NaN or infinity among the codes")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def size(self) -> int:
        """D."""
        return int(self.codes[0].shape[1])

    @property
    def lengths(self) -> np.ndarray:
        """(N,) frames of each sequence."""
        return np.array([len(one) for one in self.codes])

    @property
    def digest(self) -> str:
        """SHA-256 of lengths and codes."""
        digest = hashlib.sha256(self.lengths.astype(np.int64).tobytes())
        for one in self.codes:
            digest.update(np.ascontiguousarray(one).data)
        return digest.hexdigest()

    def split(self, held_out: float) -> tuple[CodeSequences, CodeSequences]:
        """Sequences to train on and others held out, the same as `Sequences.split` of as many.

        Raises:
            UsageError: a share that is not between 0 and 1, or a single sequence.
        """
        if not 0 < held_out < 1:
            raise UsageError(f"the share to hold out must be above 0 and below 1; got {held_out!r}")
        if len(self) < 2:
            raise UsageError(f"{self.where}: a single sequence cannot be split into training and held-out ones")
        count = min(max(round(held_out * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(0).permutation(len(self))
        kept, others = np.sort(order[count:]), np.sort(order[:count])
        return self._part(kept), self._part(others)

    def windows(self, batch: int, length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Random windows of consecutive frames, every legal one with the same probability: `codes` (B, L, D).

        Raises:
            UsageError: every sequence is shorter than `length`.
        """
        places = zip(*self.draw(batch, length, generator), strict=True)
        return {"codes": np.stack([self.codes[which][start : start + length] for which, start in places])}

    def draw(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows lie that `windows` would read: (B,) numbers of sequences, and (B,) first frames within them.

        Raises:
            UsageError: every sequence is shorter than `length`.
        """
        legal = self._legal(length)
        ends = np.cumsum(legal)
        number = generator.integers(ends[-1], size=batch)
        which = np.searchsorted(ends, number, side="right")
        return which, number - (ends - legal)[which]

    def stretch(self, number: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Consecutive frames of one sequence, from `start` to before `stop` or to its end: `codes` (L, D)."""
        return {"codes": self.codes[number][start:stop]}

    def ordered(self, length: int, count: int) -> dict[str, np.ndarray]:
        """The first `length` frames of the first `count` sequences that are so long, in their order: `codes` (B, L, D).

        Raises:
            UsageError: every sequence is shorter than `length`.
        """
        self._legal(length)
        return {"codes": np.stack([one[:length] for one in self.codes if len(one) >= length][:count])}

    def _legal(self, length: int) -> np.ndarray:
        legal = np.maximum(self.lengths - length + 1, 0)
        if not legal.any():
            longest = int(self.lengths.max())
            raise UsageError(f"{self.where}: windows of {length} frames need a sequence as long; the longest has {longest}")
        return legal

    def _part(self, chosen: np.ndarray) -> CodeSequences:
        return CodeSequences([self.codes[number] for number in chosen], self.where)


def keypoint_codes(
    sequences: Sequences, perception: Perception, listen: Callable[[int], None] | None = None
) -> CodeSequences:
    """The coordinates (x, y) of a perception model's keypoints in each frame, K after K: codes of 2 K numbers.

    Args:
        sequences: of frames.
        perception: what encodes them.
        listen: is told how many frames are done.
    """
    encoded, done = [], 0
    for number, length in enumerate(sequences.lengths.tolist()):
        pieces = []
        for frames in _pieces(sequences, number, length):
            pieces.append(coordinates(perception, frames).cpu().numpy())
            done += len(frames)
            if listen is not None:
                listen(done)
        encoded.append(np.concatenate(pieces))
    return CodeSequences(encoded, str(sequences.path))


def _pieces(sequences: Sequences, number: int, length: int) -> Iterator[np.ndarray]:
    for start in range(0, length, CHUNK):
        yield sequences.stretch(number, start, start + CHUNK)["frames"]
