"""How well keyframes are found: F1 by exact frame, as in KeyIn Table 1, or within a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class KeyframeMatches:
    """Counts of keyframes; those of several sequences add up."""

    found: int = 0
    """Keyframes that a method names."""
    present: int = 0
    """True ones."""
    matched: int = 0
    """One-to-one matches."""

    def __add__(self, other: KeyframeMatches) -> KeyframeMatches:
        return KeyframeMatches(self.found + other.found, self.present + other.present, self.matched + other.matched)

    @property
    def precision(self) -> float:
        """Matched of the found; NaN if there are none."""
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Matched of the true; NaN if there are none."""
        return self.matched / self.present if self.present else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN if nothing is found and nothing true."""
        total = self.found + self.present
        return 2 * self.matched / total if total else float("nan")


def match_keyframes(found: np.ndarray, present: np.ndarray, tolerance: int = 0) -> KeyframeMatches:
    """As many one-to-one matches as there can be of keyframes that lie within a tolerance of each other.

    Args:
        found: (F,) frame numbers; one that is named twice counts once.
        present: (P,) frame numbers of the true keyframes, likewise.
        tolerance: frames; 0 for the same frame.

    Raises:
        ValueError: not one-dimensional, not whole numbers, or a negative tolerance.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, not {tolerance}")
    ours, true = _frames(found, "found"), _frames(present, "present")
    near = np.abs(ours[:, None] - true) <= tolerance
    rows, columns = linear_sum_assignment(near, maximize=True)
    return KeyframeMatches(len(ours), len(true), int(near[rows, columns].sum()))


def match_sequences(
    found: Sequence[np.ndarray],
    present: Sequence[np.ndarray],
    tolerance: int = 0,
    *,
    start: int | None = None,
    stop: int | None = None,
) -> KeyframeMatches:
    """Matches of many sequences, summed: the F1 of the sum is that of Table 1.

    Args:
        found: (F,) frame numbers of each sequence.
        present: (P,) frame numbers of each sequence.
        tolerance: frames.
        start: the first frame that counts, on both sides; what a model was given is nothing to find.
        stop: the first frame after those that count.

    Raises:
        ValueError: as of `match_keyframes`, or another number of sequences.
    """
    if len(found) != len(present):
        raise ValueError(f"{len(found)} sequences of keyframes found, {len(present)} of true ones")
    total = KeyframeMatches()
    for ours, true in zip(found, present, strict=True):
        total += match_keyframes(_within(ours, start, stop), _within(true, start, stop), tolerance)
    return total


def _within(frames: np.ndarray, start: int | None, stop: int | None) -> np.ndarray:
    values = np.asarray(frames)
    kept = np.ones(values.shape, bool)
    if start is not None:
        kept &= values >= start
    if stop is not None:
        kept &= values < stop
    return values[kept]


def _frames(frames: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(frames)
    if values.size == 0 and values.ndim == 1:
        return values.astype(np.int64)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be (F,) frame numbers, not {values.dtype} {values.shape}")
    return np.unique(values.astype(np.int64))
