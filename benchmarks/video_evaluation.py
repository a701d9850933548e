"""What a Struct-VRNN is worth on sequences that it never saw: positions, futures, and pictures (Struct-VRNN section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.struct_vrnn import StructVRNN, to_keypoints
from kpagent.evaluation.trajectories import (
    Regression,
    detection_error,
    fit_regression,
    objects_found,
    sample_diversity,
    trajectory_error,
)
from kpagent.evaluation.video import closest_and_furthest, psnr, ssim

FITTED = 10_000
"""Frames of the training set that the regression is fitted on, where there are so many."""
EPSILON = 0.1
"""How far a keypoint may be from its object in the mean, where the court is 2 wide: the ball's width."""
PERCENT = 50.0
"""From coordinates to percent of the court's width, which is that of the image."""
LARGEST_PSNR = 100.0
"""Of frames that are equal, in place of infinity; one level of one colour in one pixel already gives 89 at 64×64."""

_WINDOWS = 16
"""At a time."""

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of predicted frames (S, T, H, W, 3) and true ones (1, T, H, W, 3): (S, T), higher is better."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Windows of sequences as a model codes them.

    Attributes:
        codes: (N, L, 3K).
        truth: (N, L, P, 2) true positions.
    """

    codes: Tensor
    truth: np.ndarray


def encode(model: StructVRNN, sequences: Sequences, length: int, count: int) -> Encoded:
    """Code windows of sequences with true positions, those that `Sequences.ordered` has first.

    Args:
        model: what codes them.
        sequences: to take windows from.
        length: L frames of each.
        count: N windows, or fewer where there are no more.
    """
    codes, truth = [], []
    for windows in _windows(sequences, length, count):
        codes.append(model.encode_sequence(windows["frames"]))
        truth.append(windows["truth"])
    return Encoded(torch.cat(codes), np.concatenate(truth))


def fit(model: StructVRNN, training: Sequences, length: int) -> Regression:
    """The linear map from codes to true positions, fitted on frames of the training set (section 5.2)."""
    seen = encode(model, training, length, -(-FITTED // length))
    return fit_regression(_rows(seen.codes), seen.truth.reshape(-1, *seen.truth.shape[2:]))


def detector_figures(model: StructVRNN, regression: Regression, seen: Encoded) -> dict[str, Any]:
    """How well the codes of frames say where objects are in the same frames (Figure 5).

    Returns:
        `detector_error`, the mean distance of each object in percent of the court's width, and `found`, whether each has a
        keypoint of its own within `EPSILON` of it, after an affine map of that keypoint alone; None of a model without
        keypoints.
    """
    truth = seen.truth.reshape(-1, *seen.truth.shape[2:])
    error = detection_error(regression.predict(_rows(seen.codes)), truth) * PERCENT
    found = None
    if model.config.code.has_keypoints:
        places = to_keypoints(seen.codes).xy.flatten(0, 1).cpu().numpy()
        found = objects_found(places, truth, EPSILON, affine=True).found.tolist()
    return {"detector_error": error.tolist(), "found": found}


def future_figures(model: StructVRNN, regression: Regression, seen: Encoded, samples: int) -> dict[str, Any]:
    """How far foretold objects are from true ones, after the first frames of each window (Figure 4).

    Args:
        model: what foretells.
        regression: from codes to positions.
        seen: windows, of which the model sees as many frames as in training.
        samples: futures of each, of which the best counts, for each object by itself (footnote 3).

    Returns:
        In percent of the court's width, for each predicted step: `trajectory_error`; `constant_error`, where the last
        observed code is kept; `diversity`, the mean distance between two futures' positions of an object.
    """
    observed = model.config.dynamics.observed
    steps = seen.codes.shape[1] - observed
    located = [
        regression.predict(futures.cpu().numpy()).astype(np.float32)
        for start in range(0, len(seen.codes), _WINDOWS)
        for futures in [_imagine(model, seen.codes[start : start + _WINDOWS], steps, samples, seed=start)]
    ]
    futures, truth = np.concatenate(located), seen.truth[:, observed:]
    kept = regression.predict(seen.codes[:, observed - 1].cpu().numpy())[:, None, None].repeat(steps, axis=2)
    return {
        "trajectory_error": (trajectory_error(futures, truth, per_object=True) * PERCENT).tolist(),
        "constant_error": (trajectory_error(kept, truth, per_object=True) * PERCENT).tolist(),
        "diversity": (sample_diversity(futures) * PERCENT).tolist(),
    }


def image_figures(
    model: StructVRNN, sequences: Sequences, predicted: int, count: int, samples: int
) -> dict[str, dict[str, list[float]]]:
    """SSIM and PSNR of painted futures against what came (Figure S1).

    Args:
        model: what foretells and paints.
        sequences: of the test set.
        predicted: T steps.
        count: windows.
        samples: S futures of each.

    Returns:
        `ssim` and `psnr`, each as of `compare`.
    """
    scores: dict[str, Score] = {"ssim": ssim, "psnr": lambda one, other: np.minimum(psnr(one, other), LARGEST_PSNR)}
    return compare(model, sequences, predicted, count, samples, scores)


def compare(
    model: StructVRNN, sequences: Sequences, predicted: int, count: int, samples: int, scores: dict[str, Score]
) -> dict[str, dict[str, list[float]]]:
    """Scores of painted futures, in the mean over windows; other arguments as of `image_figures`.

    Returns:
        For each score, at each step: `mean`, of all samples; `closest` and `furthest`, of the sample with the best and of
        the one with the worst mean score of its frames.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for painted, truth in paint_futures(model, sequences, predicted, count, samples):
        for name, score in scores.items():
            found[name].append(score(painted, truth[None]))
    return {name: _summary(np.stack(values)) for name, values in found.items()}


def paint_futures(
    model: StructVRNN, sequences: Sequences, predicted: int, count: int, samples: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Futures as frames (S, T, H, W, 3) uint8, and what came (T, H, W, 3), window by window."""
    observed, number = model.config.dynamics.observed, 0
    for windows in _windows(sequences, observed + predicted, count):
        codes = model.encode_sequence(windows["frames"][:, :observed])
        for frames, code in zip(windows["frames"], codes, strict=True):
            futures = _imagine(model, code[None], predicted, samples, seed=number)
            # All samples have one first frame: as one long sequence it is looked at once.
            painted = model.render(frames[None, 0], futures.flatten(1, 2))[0]
            yield painted.reshape(samples, predicted, *painted.shape[1:]), frames[observed:]
            number += 1


def _imagine(model: StructVRNN, codes: Tensor, steps: int, samples: int, seed: int) -> Tensor:
    """Futures (N, S, T, 3K) after the first of the codes (N, L, 3K)."""
    belief, _ = model.observe(codes[:, : model.config.dynamics.observed])
    return model.imagine(belief, steps, samples=samples, seed=seed)


def _windows(sequences: Sequences, length: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    count = min(count, sequences.num_ordered(length))
    for first in range(0, count, _WINDOWS):
        yield sequences.ordered(length, min(_WINDOWS, count - first), first=first)


def _rows(codes: Tensor) -> np.ndarray:
    return codes.flatten(0, 1).cpu().numpy()


def _summary(scores: np.ndarray) -> dict[str, list[float]]:
    ends = closest_and_furthest(scores)
    return {
        "mean": scores.mean(axis=(0, 1)).tolist(),
        "closest": ends.closest.tolist(),
        "furthest": ends.furthest.tolist(),
    }
