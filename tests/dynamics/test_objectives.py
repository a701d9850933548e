from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from kpagent.dynamics.objectives import best_sample, code_error, gaussian_kl, separation_loss, sparsity_loss

SEEDS = st.integers(0, 2**32 - 1)


def slow_separation(xy: np.ndarray, std: float) -> np.ndarray:
    """Eq. 5 as it is written, for each sequence: over all pairs of keypoints, equal ones too."""
    batch, length, count = xy.shape[:3]
    losses = np.zeros(batch)
    for b in range(batch):
        for k in range(count):
            for other in range(count):
                distance = 0.0
                for t in range(length):
                    mean = sum(xy[b, s, k] for s in range(length)) / length
                    other_mean = sum(xy[b, s, other] for s in range(length)) / length
                    away = (xy[b, t, k] - mean) - (xy[b, t, other] - other_mean)
                    distance += (away[0] ** 2 + away[1] ** 2) / length
                losses[b] += math.exp(-distance / (2 * std**2))
    return losses


@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(2, 5), st.sampled_from([0.02, 0.1, 1.0]))
def test_separation_is_the_papers_sum_but_for_a_constant_and_a_factor(
    seed: int, batch: int, length: int, count: int, std: float
) -> None:
    draws = np.random.default_rng(seed)
    xy = draws.uniform(-1, 1, (batch, 1, count, 2)) + draws.normal(0, std, (batch, length, count, 2))
    expected = (slow_separation(xy, std) - count) / (count * (count - 1))
    np.testing.assert_allclose(separation_loss(torch.from_numpy(xy), std), expected, rtol=1e-9, atol=1e-12)


def test_separation_looks_at_movement_not_at_place() -> None:
    draws = np.random.default_rng(0)
    path, other = draws.uniform(-0.5, 0.5, (2, 1, 8, 1, 2))
    together = torch.from_numpy(np.concatenate([path, path + 0.4], axis=2))
    apart = torch.from_numpy(np.concatenate([path, other], axis=2))
    assert separation_loss(together, 0.02).item() == pytest.approx(1)
    assert separation_loss(apart, 0.02).item() < 1e-3
    assert separation_loss(together[:, :, :1], 0.02).tolist() == [0]


def test_separation_pushes_paths_apart() -> None:
    xy = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    xy[0, :, 0, 0] = torch.tensor([0.0, 0.1, 0.2, 0.3])
    xy[0, :, 1, 0] = torch.tensor([0.0, 0.1, 0.2, 0.31])
    xy.requires_grad_()
    separation_loss(xy, 0.02).sum().backward()
    assert xy.grad is not None
    step = -xy.grad[0, :, 1, 0]
    # The second path is ahead in the last frame: descent puts it further ahead there.
    assert step[3] > 0
    assert torch.autograd.gradcheck(lambda paths: separation_loss(paths, 0.1), (0.1 * torch.randn_like(xy)).requires_grad_())


def test_separation_of_equal_paths_has_a_finite_gradient() -> None:
    xy = torch.full((2, 3, 4, 2), 0.3, requires_grad=True)
    separation_loss(xy, 0.002).sum().backward()
    assert xy.grad is not None
    assert xy.grad.abs().max() == 0


@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 3, 4, 3)])
def test_separation_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, T, K, 2\)"):
        separation_loss(torch.zeros(shape), 0.1)


def test_sparsity_is_the_sum_of_sizes() -> None:
    assert sparsity_loss(torch.tensor([[0.5, -0.25, 0.0], [1.0, 2.0, 3.0]])).tolist() == [0.75, 6.0]


@given(SEEDS)
def test_the_divergence_is_that_of_normal_distributions(seed: int) -> None:
    draws = np.random.default_rng(seed)
    mean, prior_mean = torch.from_numpy(draws.normal(0, 2, (2, 3, 4)))
    std, prior_std = torch.from_numpy(draws.uniform(0.05, 3, (2, 3, 4)))
    expected = torch.distributions.kl_divergence(Normal(mean, std), Normal(prior_mean, prior_std)).sum(dim=-1)
    torch.testing.assert_close(gaussian_kl(mean, std, prior_mean, prior_std), expected)


def test_the_divergence_is_the_mean_log_ratio_under_the_first() -> None:
    first, second = Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])), Normal(torch.zeros(2), torch.ones(2))
    drawn = first.sample(torch.Size([200_000]))
    ratios = (first.log_prob(drawn) - second.log_prob(drawn)).sum(dim=-1)
    found = gaussian_kl(first.mean, first.stddev, second.mean, second.stddev).item()
    assert found == pytest.approx(ratios.mean().item(), abs=5 * ratios.std().item() / 200_000**0.5)
    assert gaussian_kl(first.mean, first.stddev, first.mean, first.stddev).item() == pytest.approx(0, abs=1e-6)


def test_the_error_of_codes_is_a_negative_log_likelihood_without_its_constant() -> None:
    decoded, code = torch.randn(2, 5, 6)
    expected = -Normal(decoded, 1.0).log_prob(code).sum(dim=-1) - 6 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(code_error(decoded, code), expected)


@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_the_best_sample_is_the_nearest(seed: int, batch: int, samples: int, size: int) -> None:
    draws = np.random.default_rng(seed)
    decoded, code = draws.normal(size=(batch, samples, size)), draws.normal(size=(batch, size))
    expected = [
        min(range(samples), key=lambda i, b=b: math.dist(decoded[b, i], code[b]))  # type: ignore[misc]
        for b in range(batch)
    ]
    assert best_sample(torch.from_numpy(decoded), torch.from_numpy(code)).tolist() == expected


@pytest.mark.parametrize(("decoded", "code"), [((2, 3), (2, 3)), ((2, 4, 3), (3, 3)), ((2, 4, 3), (2, 4))])
def test_samples_that_do_not_fit_are_refused(decoded: tuple[int, ...], code: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        best_sample(torch.zeros(decoded), torch.zeros(code))
