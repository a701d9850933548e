"""How alike predicted and true frames are, pixel by pixel; the best and worst of many samples (Struct-VRNN Figure S1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kpagent.evaluation.frame_pairs import FramePairs, as_images

PAIRS_AT_ONCE = 64
SSIM_WINDOW = 11


def ssim(predicted: np.ndarray, truth: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Structural similarity of each frame (Wang et al. 2004), as torchmetrics computes it; higher is better.

    Of values in [0, 1] (a data range of 1), with a Gaussian window of 11 × 11 and deviation 1.5, k1 = 0.01, k2 = 0.03, each
    colour by itself, borders reflected, and the mean over all pixels and colours. In float32, which is exact to 1e-4, or to
    2e-3 where much of a frame is of one flat colour; float64 would take ten times as long.

    Args:
        predicted: (..., T, H, W, 3) uint8, H and W of 11 or more.
        truth: the same, its leading axes such as broadcast with those of `predicted`: (N, S, T, H, W, 3) samples are
            compared with (N, 1, T, H, W, 3).
        device: where to compute.

    Returns:
        (..., T) in [-1, 1], 1 for equal frames.

    Raises:
        ValueError: not such frames, or they cannot be paired.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = FramePairs.of(predicted, truth, SSIM_WINDOW)
    scores = np.empty(len(pairs.first_index))
    for part in pairs.parts(PAIRS_AT_ONCE):
        first = as_images(pairs.first, pairs.first_index[part], device)
        second = as_images(pairs.second, pairs.second_index[part], device)
        found = structural_similarity_index_measure(
            first, second, gaussian_kernel=True, sigma=1.5, data_range=1.0, k1=0.01, k2=0.03, reduction="none"
        )
        assert isinstance(found, torch.Tensor)
        # Of a single pair it is a number without an axis.
        scores[part] = found.reshape(-1).cpu().numpy()
    return scores.reshape(pairs.shape)


def psnr(predicted: np.ndarray, truth: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in decibels, as torchmetrics computes it; higher is better.

    10 log₁₀(1 / mean squared error) over all pixels and colours of values in [0, 1] (a data range of 1).

    Args:
        predicted: (..., T, H, W, 3) uint8.
        truth: the same, its leading axes such as broadcast with those of `predicted`.
        device: where to compute.

    Returns:
        (..., T) of 0 or more; infinite for equal frames, which a mean does not survive.

    Raises:
        ValueError: not such frames, or they cannot be paired.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = FramePairs.of(predicted, truth, 1)
    scores = np.empty(len(pairs.first_index))
    for part in pairs.parts(PAIRS_AT_ONCE):
        first = as_images(pairs.first, pairs.first_index[part], device)
        second = as_images(pairs.second, pairs.second_index[part], device)
        found = peak_signal_noise_ratio(first, second, data_range=1.0, reduction="none", dim=(1, 2, 3))
        scores[part] = found.reshape(-1).cpu().numpy()
    return scores.reshape(pairs.shape)


@dataclass(frozen=True)
class ClosestAndFurthest:
    """The samples closest to and furthest from the truth, one of each for every example.

    Attributes:
        closest: (T,) score at each step of the closest samples, in the mean of the examples.
        furthest: (T,) the same of the furthest.
        closest_sample: (N,) which samples those are, to draw them.
        furthest_sample: (N,) the same of the furthest.
    """

    closest: np.ndarray
    furthest: np.ndarray
    closest_sample: np.ndarray
    furthest_sample: np.ndarray


def closest_and_furthest(scores: np.ndarray) -> ClosestAndFurthest:
    """The best and the worst sample of each example by the mean score of its frames (Struct-VRNN Figures 3 and S1).

    Args:
        scores: (N, S, T), higher is better: SSIM, PSNR or VGG cosine similarity of S samples, 100 in the paper.

    Raises:
        ValueError: not such an array, or an empty one, or a score that is no number.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 3 or not scores.size or np.isnan(scores).any():
        raise ValueError(f"scores must be (N, S, T) numbers, not {scores.shape}, empty or NaN")
    mean = scores.mean(axis=2)
    examples = np.arange(len(scores))
    best, worst = mean.argmax(axis=1), mean.argmin(axis=1)
    return ClosestAndFurthest(scores[examples, best].mean(axis=0), scores[examples, worst].mean(axis=0), best, worst)
