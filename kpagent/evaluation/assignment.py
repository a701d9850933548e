"""Which keypoint follows which object, and how far from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Assignment:
    """One keypoint for each object, over a whole set of frames.

    Attributes:
        keypoint: (M,) index of the keypoint of each object.
        distance: (M,) mean Euclidean distance to it over the frames where the object is present, in coordinate units.
        per_frame: (T, M) that distance in each frame, NaN where the object is absent.
    """

    keypoint: np.ndarray
    distance: np.ndarray
    per_frame: np.ndarray


def assign(keypoints: np.ndarray, objects: np.ndarray) -> Assignment:
    """Give each object a keypoint of its own, fixed over all frames, so that the summed mean distance is least.

    Args:
        keypoints: (T, K, 2) coordinates.
        objects: (T, M, 2) coordinates, NaN where an object is absent; M <= K, and each is present at least once.

    Raises:
        ValueError: shapes do not fit, a keypoint that is not finite, fewer keypoints than objects, or an object that is
            never there.
    """
    fits = keypoints.ndim == objects.ndim == 3 and keypoints.shape[2] == objects.shape[2] == 2
    if not fits or keypoints.shape[0] != objects.shape[0]:
        raise ValueError(f"keypoints {keypoints.shape} and objects {objects.shape} must be (T, K, 2) and (T, M, 2)")
    if keypoints.shape[1] < objects.shape[1]:
        raise ValueError(f"{keypoints.shape[1]} keypoints cannot follow {objects.shape[1]} objects one to one")
    if not np.isfinite(keypoints).all():
        raise ValueError("keypoints must be finite")
    return assign_distances(np.linalg.norm(keypoints[:, :, None] - objects[:, None], axis=-1))


def assign_distances(distances: np.ndarray) -> Assignment:
    """As `assign`, from distances that were measured in some other way.

    Args:
        distances: (T, K, M), NaN in the rows [t, :, m] where object m is absent; M <= K, and each is present at least once.

    Raises:
        ValueError: not such an array, fewer keypoints than objects, or an object that is never there.
    """
    if distances.ndim != 3:
        raise ValueError(f"distances must be (T, K, M), not {distances.shape}")
    if distances.shape[1] < distances.shape[2]:
        raise ValueError(f"{distances.shape[1]} keypoints cannot follow {distances.shape[2]} objects one to one")
    present = np.isfinite(distances).all(axis=1)
    if not present.any(axis=0).all():
        raise ValueError("an object is absent from every frame")
    mean = np.where(present[:, None], distances, 0).sum(axis=0) / present.sum(axis=0)
    rows, columns = linear_sum_assignment(mean)
    keypoint = np.empty(distances.shape[2], int)
    keypoint[columns] = rows
    chosen = np.arange(distances.shape[2])
    return Assignment(keypoint, mean[keypoint, chosen], distances[:, keypoint, chosen])
