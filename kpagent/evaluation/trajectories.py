"""How far predicted objects are from the true ones, and how far predictions are from each other (Struct-VRNN section 5.2).

Coordinates are those of `kpagent.keypoints`: the image is 2 wide and 2 high, and so are errors measured. Half an error is
its share of the image's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpagent.evaluation.assignment import assign_distances

# Numbers held at once besides what the caller holds, where an example does not need more.
BLOCK = 2_000_000


@dataclass(frozen=True)
class Regression:
    """A linear map from a vector of keypoints to the positions of objects; `fit_regression` makes it.

    Attributes:
        weights: (D, P, 2).
        offset: (P, 2).
    """

    weights: np.ndarray
    offset: np.ndarray

    def predict(self, keypoints: np.ndarray) -> np.ndarray:
        """Positions (..., P, 2), float64, for vectors (..., D).

        Raises:
            ValueError: the vectors have another length than those of the fit.
        """
        keypoints = np.asarray(keypoints)
        if keypoints.shape[-1:] != self.weights.shape[:1]:
            raise ValueError(f"keypoints must be (..., {len(self.weights)}), as in the fit, not {keypoints.shape}")
        return np.tensordot(keypoints.astype(np.float64), self.weights, axes=1) + self.offset


def fit_regression(keypoints: np.ndarray, truth: np.ndarray, ridge: float = 1e-6) -> Regression:
    """Least squares with an offset, object by object, from keypoints to true positions (Struct-VRNN section 5.2).

    A column that never moves gets weight 0. So, nearly, does one that moves less than √ridge times as much as the liveliest
    column: its weight would be so large that any difference between detected and predicted keypoints swamped the rest.

    Args:
        keypoints: (N, D), such as K triples (x, y, presence), or any other features of a frame.
        truth: (N, P, 2), NaN where an object is absent; those frames say nothing of it.
        ridge: added to every column's variance, as a share of the largest; 0 is plain least squares of the least norm.

    Raises:
        ValueError: shapes do not fit, keypoints are not finite, an object is never there, or ridge is negative.
    """
    keypoints, truth = np.asarray(keypoints), np.asarray(truth)
    if keypoints.ndim != 2 or truth.ndim != 3 or truth.shape[2] != 2 or len(keypoints) != len(truth):
        raise ValueError(f"keypoints {keypoints.shape} and truth {truth.shape} must be (N, D) and (N, P, 2)")
    if not np.isfinite(keypoints).all():
        raise ValueError("keypoints must be finite")
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, but is {ridge}")
    present = np.isfinite(truth).all(axis=-1)
    if not present.any(axis=0).all():
        raise ValueError("an object is absent from every frame")
    weights = np.zeros((keypoints.shape[1], truth.shape[1], 2))
    offset = np.zeros(truth.shape[1:])
    # Objects that are there in the same frames share one solution: most often that is all of them.
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        rows, objects = patterns[:, index], np.flatnonzero(which.ravel() == index)
        inputs, targets = keypoints[rows].astype(np.float64), truth[rows][:, objects].astype(np.float64)
        middle, centre = inputs.mean(axis=0), targets.mean(axis=0)
        inputs -= middle
        covariance = inputs.T @ inputs / len(inputs)
        # What rounding leaves of a constant column is no movement.
        still = np.diag(covariance) <= (1e-12 * np.maximum(np.abs(middle), 1e-12)) ** 2
        covariance[still] = covariance[:, still] = 0
        covariance += ridge * np.diag(covariance).max(initial=0) * np.eye(len(covariance))
        cross = inputs.T @ (targets - centre).reshape(len(targets), -1) / len(inputs)
        cross[still] = 0
        solved = np.linalg.lstsq(covariance, cross, rcond=None)[0].reshape(-1, len(objects), 2)
        weights[:, objects] = solved
        offset[objects] = centre - np.tensordot(middle, solved, axes=1)
    return Regression(weights, offset)


def trajectory_error(predicted: np.ndarray, truth: np.ndarray, per_object: bool) -> np.ndarray:
    """Mean distance at each step between true positions and the best of S predictions (Struct-VRNN Figure 4).

    The best sample of an example is the one with the least mean distance over all steps: of all objects together
    (Human3.6M), or of each object by itself (Basketball, footnote 3 of the paper).

    Args:
        predicted: (N, S, T, P, 2) positions, from `Regression.predict` on predicted keypoints.
        truth: (N, T, P, 2) positions, NaN where an object is absent; there is no error there.
        per_object: whether each object has a best sample of its own.

    Returns:
        (T,) in coordinate units, where the image is 2 wide; NaN at a step where no object of any example is there.

    Raises:
        ValueError: shapes do not fit, there is no sample, or a prediction is not finite.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    fits = predicted.ndim == 5 and truth.ndim == 4 and truth.shape[-1] == 2 and predicted.shape[1] > 0
    if not fits or predicted.shape[:1] + predicted.shape[2:] != truth.shape:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} must be (N, S, T, P, 2) and (N, T, P, 2)")
    total, count = np.zeros(truth.shape[1]), np.zeros(truth.shape[1])
    for block in _blocks(predicted):
        if not np.isfinite(predicted[block]).all():
            raise ValueError("predicted positions must be finite")
        there = np.isfinite(truth[block]).all(axis=-1)
        target = np.where(there[..., None], truth[block], 0).astype(np.float64)
        distances = np.linalg.norm(predicted[block] - target[:, None], axis=-1) * there[:, None]
        # Every sample of an example is measured where its objects are, so the least sum has the least mean.
        sums = distances.sum(axis=2) if per_object else distances.sum(axis=(2, 3))[..., None]
        best = sums.argmin(axis=1)[:, None, None]
        total += np.take_along_axis(distances, best, axis=1)[:, 0].sum(axis=(0, 2))
        count += there.sum(axis=(0, 2))
    return _mean(total, count)


def detection_error(located: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance of each object from where the keypoints of the same frame put it (Struct-VRNN Figures 5 and S6).

    Args:
        located: (..., P, 2) positions, from `Regression.predict` on detected keypoints.
        truth: (..., P, 2) positions, NaN where an object is absent; there is no error there.

    Returns:
        (P,) in coordinate units, where the image is 2 wide; NaN for an object that is never there.

    Raises:
        ValueError: shapes do not fit, or a located position is not finite.
    """
    located, truth = np.asarray(located), np.asarray(truth)
    if located.shape != truth.shape or located.ndim < 2 or located.shape[-1] != 2:
        raise ValueError(f"located and truth must both be (..., P, 2), not {located.shape} and {truth.shape}")
    if not np.isfinite(located).all():
        raise ValueError("located positions must be finite")
    distances = np.linalg.norm(located.astype(np.float64) - truth, axis=-1).reshape(-1, truth.shape[-2])
    there = np.isfinite(distances)
    return _mean(np.where(there, distances, 0).sum(axis=0), there.sum(axis=0))


@dataclass(frozen=True)
class ObjectsFound:
    """Which objects have a keypoint of their own.

    Attributes:
        keypoint: (P,) index of the keypoint of each object, each keypoint at most once.
        error: (P,) mean distance to it over the frames where the object is there, in coordinate units.
        found: (P,) whether that is within ε.
    """

    keypoint: np.ndarray
    error: np.ndarray
    found: np.ndarray


def objects_found(keypoints: np.ndarray, truth: np.ndarray, epsilon: float, affine: bool = False) -> ObjectsFound:
    """Give each object a keypoint of its own at the least summed error, and say which objects' are within ε.

    Args:
        keypoints: (N, K, 2) coordinates.
        truth: (N, P, 2) coordinates, NaN where an object is absent; P <= K, and each is present at least once.
        epsilon: ε, in coordinate units, where the image is 2 wide.
        affine: measure from where the best affine map of that keypoint alone, fitted on these frames, puts the object. A
            keypoint learned without labels may lie beside its object, or nearer to the centre of the image, all along.

    Raises:
        ValueError: shapes do not fit, epsilon is not positive, keypoints are not finite, fewer keypoints than objects, or
            an object that is never there.
    """
    keypoints, truth = np.asarray(keypoints), np.asarray(truth)
    fits = keypoints.ndim == truth.ndim == 3 and keypoints.shape[2] == truth.shape[2] == 2
    if not fits or len(keypoints) != len(truth):
        raise ValueError(f"keypoints {keypoints.shape} and truth {truth.shape} must be (N, K, 2) and (N, P, 2)")
    if not np.isfinite(keypoints).all():
        raise ValueError("keypoints must be finite")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}")
    distances = np.empty((*keypoints.shape[:2], truth.shape[1]))
    for index in range(keypoints.shape[1]):
        place = keypoints[:, index]
        located = fit_regression(place, truth).predict(place) if affine else place[:, None]
        distances[:, index] = np.linalg.norm(located - truth, axis=-1)
    chosen = assign_distances(distances)
    return ObjectsFound(chosen.keypoint, chosen.distance, chosen.distance <= epsilon)


def sample_diversity(samples: np.ndarray) -> np.ndarray:
    """Mean distance at each step between two samples of one example, over all pairs of different samples.

    The last axis is a vector, a place or a colour: distances are Euclidean along it and averaged over all other axes.

    Args:
        samples: (N, S, T, ..., D) with S of 2 or more, such as (N, S, T, K, 2) keypoints or (N, S, T, H, W, 3) frames.

    Returns:
        (T,) in the units of `samples`.

    Raises:
        ValueError: not such an array, or one that is empty or not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim < 4 or samples.shape[1] < 2 or not samples.size:
        raise ValueError(f"samples must be (N, S, T, ..., D) with two samples or more, not {samples.shape}")
    examples, count, steps, dim = *samples.shape[:3], samples.shape[-1]
    total = np.zeros(steps)
    for block in _blocks(samples):
        part = samples[block].reshape(-1, count, steps, samples[0, 0, 0].size // dim, dim)
        part = part if np.issubdtype(part.dtype, np.floating) else part.astype(np.float32)
        for shift in range(1, count):
            gap = part[:, shift:] - part[:, :-shift]
            total += np.sqrt(np.einsum("nstpd,nstpd->nstp", gap, gap)).mean(axis=-1, dtype=np.float64).sum(axis=(0, 1))
    if not np.isfinite(total).all():
        raise ValueError("samples must be finite")
    return total / (examples * count * (count - 1) / 2)


def _blocks(array: np.ndarray) -> list[slice]:
    """Slices of the first axis that hold `BLOCK` numbers each, or one entry where that has more."""
    length = max(1, BLOCK // max(1, array[:1].size))
    return [slice(start, start + length) for start in range(0, len(array), length)]


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count, total / np.maximum(count, 1), np.nan)
