"""How well keypoints track objects: precision and recall of whole trajectories, and what trackers are judged by.

Trajectories are compared as in Transporter section 4.1. Frame by frame, the CLEAR MOT rules (Bernardin and Stiefelhagen
2008) say which objects are tracked and how often a track passes from one keypoint to another, and the identity score
(IDF1, Ristani et al. 2016) how far one keypoint keeps to one object over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class TrajectoryMatches:
    """Counts of trajectories; those of several windows add up."""

    detected: int = 0
    """Keypoint trajectories."""
    present: int = 0
    """Object trajectories: objects that are on the screen in at least one frame of the window."""
    matched: int = 0
    """One-to-one matches."""

    def __add__(self, other: TrajectoryMatches) -> TrajectoryMatches:
        return TrajectoryMatches(self.detected + other.detected, self.present + other.present, self.matched + other.matched)

    @property
    def precision(self) -> float:
        """Matched of the detected; NaN if there are none."""
        return self.matched / self.detected if self.detected else float("nan")

    @property
    def recall(self) -> float:
        """Matched of the present; NaN if there are none."""
        return self.matched / self.present if self.present else float("nan")


@dataclass(frozen=True)
class FrameMatches:
    """Counts of objects in frames; those of several sequences add up."""

    present: int = 0
    """Objects on the screen, summed over frames."""
    tracked: int = 0
    """Of them, those with a keypoint of their own within ε."""
    switches: int = 0
    """Times that an object is tracked by another keypoint than the last that tracked it."""
    distance: float = 0.0
    """Sum of the distances of those tracked."""
    detected: int = 0
    """Keypoints, summed over frames."""
    identified: int = 0
    """Object frames tracked, if each object keeps to one keypoint throughout (IDTP)."""

    def __add__(self, other: FrameMatches) -> FrameMatches:
        return FrameMatches(
            self.present + other.present,
            self.tracked + other.tracked,
            self.switches + other.switches,
            self.distance + other.distance,
            self.detected + other.detected,
            self.identified + other.identified,
        )

    @property
    def tracked_fraction(self) -> float:
        """Tracked of the present; NaN if there are none."""
        return self.tracked / self.present if self.present else float("nan")

    @property
    def switches_per_1000(self) -> float:
        """Identity switches in a thousand object frames; NaN if there are none."""
        return 1000 * self.switches / self.present if self.present else float("nan")

    @property
    def mean_distance(self) -> float:
        """Mean distance of those tracked (MOTP); NaN if there are none."""
        return self.distance / self.tracked if self.tracked else float("nan")

    @property
    def idf1(self) -> float:
        """2 IDTP / (objects + keypoints); NaN if there are neither."""
        total = self.present + self.detected
        return 2 * self.identified / total if total else float("nan")


def trajectory_distances(keypoints: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Mean distance between each keypoint's trajectory and each object's, over the frames in which the object is there.

    Args:
        keypoints: (T, K, 2) in [-1, 1].
        objects: (T, M, 2), NaN where an object is absent.

    Returns:
        (K, M); NaN in the column of an object that is never there.

    Raises:
        ValueError: shapes do not fit together.
    """
    distances = _distances(keypoints, objects)
    here = np.isfinite(distances)
    count = here.sum(axis=0)
    return np.where(count, np.where(here, distances, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def match_trajectories(keypoints: np.ndarray, objects: np.ndarray, epsilon: float) -> dict[int, int]:
    """One-to-one matches of trajectories at the least cost; pairs further apart than ε are no matches (section 4.1).

    Of all ways to match as many pairs as can be, the one with the smallest sum of distances.

    Args:
        keypoints: (T, K, 2) in [-1, 1].
        objects: (T, M, 2), NaN where an object is absent.
        epsilon: ε, in coordinate units.

    Returns:
        The object of each keypoint that has one.

    Raises:
        ValueError: shapes do not fit together, or epsilon is not positive.
    """
    return _assign(trajectory_distances(keypoints, objects), epsilon)


def track(
    keypoints: np.ndarray, objects: np.ndarray, epsilon: float, lengths: Sequence[int]
) -> dict[int, TrajectoryMatches]:
    """Matches of trajectories of several lengths, the sequence being cut into windows that do not overlap (Figure 4).

    Args:
        keypoints: (T, K, 2) in [-1, 1], of one episode without a break.
        objects: (T, M, 2), NaN where an object is absent.
        epsilon: ε, in coordinate units.
        lengths: of the windows, in frames; what is left over at the end is not counted.

    Returns:
        The sums over windows, by length.

    Raises:
        ValueError: as of `match_trajectories`, or a length below 1 or beyond T.
    """
    distances = _distances(keypoints, objects)
    _require_positive(epsilon)
    found = {}
    for length in lengths:
        if not 1 <= length <= len(distances):
            raise ValueError(f"a trajectory of {length} frames cannot be cut from {len(distances)}")
        total = TrajectoryMatches()
        for start in range(0, len(distances) - length + 1, length):
            window = slice(start, start + length)
            matched = match_trajectories(keypoints[window], objects[window], epsilon)
            present = np.isfinite(objects[window]).all(axis=-1).any(axis=0)
            total += TrajectoryMatches(keypoints.shape[1], int(present.sum()), len(matched))
        found[length] = total
    return found


def follow(keypoints: np.ndarray, objects: np.ndarray, epsilon: float) -> FrameMatches:
    """Which objects are tracked in which frames, and how often a track changes its keypoint (CLEAR MOT, IDF1).

    In each frame a pair that was matched in the frame before stays so while it is within ε; the others are matched at the
    least cost. An object that was lost and is found again by another keypoint counts as a switch.

    Args:
        keypoints: (T, K, 2) in [-1, 1], of one episode without a break.
        objects: (T, M, 2), NaN where an object is absent.
        epsilon: ε, in coordinate units.

    Raises:
        ValueError: shapes do not fit together, or epsilon is not positive.
    """
    distances = _distances(keypoints, objects)
    _require_positive(epsilon)
    last: dict[int, int] = {}
    pairs: dict[int, int] = {}
    tracked = switches = 0
    total = 0.0
    for frame in distances:
        kept = {k: m for k, m in pairs.items() if frame[k, m] <= epsilon}
        rest = frame.copy()
        rest[list(kept), :] = np.nan
        rest[:, list(kept.values())] = np.nan
        pairs = kept | _assign(rest, epsilon)
        for k, m in pairs.items():
            switches += last.get(m, k) != k
            last[m] = k
            tracked += 1
            total += float(frame[k, m])
    within = (distances <= epsilon).sum(axis=0)
    rows, columns = linear_sum_assignment(within, maximize=True)
    return FrameMatches(
        present=int(np.isfinite(objects).all(axis=-1).sum()),
        tracked=tracked,
        switches=switches,
        distance=total,
        detected=keypoints.shape[0] * keypoints.shape[1],
        identified=int(within[rows, columns].sum()),
    )


def _distances(keypoints: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(T, K, M), NaN where the object is absent."""
    if keypoints.ndim != 3 or objects.ndim != 3 or keypoints.shape[2:] != (2,) or objects.shape[2:] != (2,):
        raise ValueError(f"keypoints and objects must be (T, K, 2) and (T, M, 2), not {keypoints.shape} and {objects.shape}")
    if len(keypoints) != len(objects) or not len(keypoints):
        raise ValueError(f"{len(keypoints)} frames of keypoints, {len(objects)} of objects")
    return np.linalg.norm(keypoints[:, :, None] - objects[:, None], axis=-1)


def _assign(distances: np.ndarray, epsilon: float) -> dict[int, int]:
    _require_positive(epsilon)
    near = distances <= epsilon
    # A pair that is no match costs more than all that are, so none is given up for a smaller sum.
    rows, columns = linear_sum_assignment(np.where(near, distances, epsilon * (1 + min(distances.shape))))
    return {int(k): int(m) for k, m in zip(rows, columns, strict=True) if near[k, m]}


def _require_positive(epsilon: float) -> None:
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}")
