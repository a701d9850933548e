"""SSIM and PSNR against slow loops, and the choice of samples against cases known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kpagent.evaluation.video import closest_and_furthest, psnr, ssim


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, pixel by pixel: Gaussian window of 11 × 11 and 1.5, borders mirrored without repeating the edge."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for channel in range(3):
        x, y = (np.pad(frame[..., channel] / 255, 5, mode="reflect") for frame in (a, b))
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                both = (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def frames(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_ssim_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    truth = frames(rng, 2, 13, 17)
    noisy = np.clip(truth + rng.normal(0, [[[[30]]], [[[90]]]], truth.shape), 0, 255).astype(np.uint8)
    expected = [slow_ssim(a, b) for a, b in zip(noisy, truth, strict=True)]
    np.testing.assert_allclose(ssim(noisy, truth), expected, atol=1e-4)
    np.testing.assert_allclose(ssim(truth, truth), 1, atol=1e-6)


def test_ssim_of_flat_frames_is_as_good_as_it_is_said_to_be() -> None:
    # There variances are differences of equal numbers, and what rounding leaves of them shows.
    flat = np.full((1, 17, 17, 3), 250, np.uint8)
    dotted = flat.copy()
    dotted[0, 5:8, 5:8] = 10, 200, 30
    assert ssim(dotted, flat)[0] == pytest.approx(slow_ssim(dotted[0], flat[0]), abs=2e-3)


def test_psnr_is_its_formula() -> None:
    rng = np.random.default_rng(1)
    predicted, truth = frames(rng, 4, 5, 7), frames(rng, 4, 5, 7)
    predicted[0] = truth[0]
    predicted[1] = truth[1] // 2
    expected = []
    for a, b in zip(predicted / 255, truth / 255, strict=True):
        error = float(((a - b) ** 2).mean())
        expected.append(10 * math.log10(1 / error) if error else math.inf)
    found = psnr(predicted, truth)
    assert found[0] == math.inf
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_samples_are_compared_with_one_truth(measure) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    # More pairs than are held at once.
    samples, truth = frames(rng, 2, 13, 3, 11, 12), frames(rng, 2, 1, 3, 11, 12)
    found = measure(samples, truth)
    assert found.shape == (2, 13, 3)
    copies = np.ascontiguousarray(np.broadcast_to(truth, samples.shape))
    np.testing.assert_allclose(found, measure(copies, samples), rtol=1e-5)
    assert found[1, 7, 2] == pytest.approx(float(measure(samples[1, 7, 2], truth[1, 0, 2])), rel=1e-5)
    assert measure(samples[0, 0, 0], truth[0, 0, 0]).shape == ()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((2, 16, 16, 3)), np.zeros((2, 16, 16, 3)), "of uint8"),
        (np.zeros((2, 3, 16, 16), np.uint8), np.zeros((2, 3, 16, 16), np.uint8), r"\(..., H, W, 3\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 16, 17, 3), np.uint8), "of one size"),
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((3, 16, 16, 3), np.uint8), "cannot be paired"),
        (np.zeros((2, 10, 16, 3), np.uint8), np.zeros((2, 10, 16, 3), np.uint8), "11x11 at least"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(first, second)


def test_closest_and_furthest_are_chosen_by_the_mean_over_frames() -> None:
    scores = np.array([[[0.9, 0.1], [0.6, 0.6], [0.2, 0.2]], [[0.0, 0.2], [0.5, 0.1], [0.4, 0.8]]])
    found = closest_and_furthest(scores)
    assert found.closest_sample.tolist() == [1, 2]
    assert found.furthest_sample.tolist() == [2, 0]
    np.testing.assert_allclose(found.closest, [0.5, 0.7])
    np.testing.assert_allclose(found.furthest, [0.1, 0.2])


@pytest.mark.parametrize("scores", [np.zeros((2, 3)), np.zeros((2, 0, 3)), np.full((1, 1, 1), np.nan)])
def test_scores_that_are_none_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(N, S, T\)"):
        closest_and_furthest(scores)
