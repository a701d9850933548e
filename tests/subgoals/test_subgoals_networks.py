from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from kpagent.subgoals.networks import ProjectedLSTM, attend, generator_of, split_gaussian, unit_kl


def test_attention_is_that_of_equations_1_and_2() -> None:
    draws = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(shape, generator=draws) for shape in ((2, 3), (2, 5, 3), (2, 5, 4)))
    for b in range(2):
        weights = [math.exp(float(query[b] @ keys[b, j])) for j in range(5)]
        expected = sum(weight * values[b, j].double() for j, weight in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(attend(query, keys, values)[b].double(), expected, rtol=1e-5, atol=1e-6)
    # exp of a large product would overflow.
    assert attend(100 * query, 100 * keys, values).isfinite().all()
    with pytest.raises(ValueError, match="query, keys and values must be"):
        attend(query, keys[:, :4], values)


def test_the_divergence_is_that_of_gaussians() -> None:
    raw = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    mean, std = split_gaussian(raw)
    expected = kl_divergence(Normal(mean, std), Normal(torch.zeros(5), torch.ones(5))).sum(dim=-1)
    torch.testing.assert_close(unit_kl(mean, std), expected)
    wild = unit_kl(*split_gaussian(1000 * raw))
    assert wild.isfinite().all()


def test_an_lstm_step_by_step_is_one_at_once() -> None:
    torch.manual_seed(0)
    lstm = ProjectedLSTM(3, 4, 8, 2)
    inputs = torch.randn(2, 5, 3)
    whole, (hidden, cell) = lstm(inputs)
    state, steps = None, []
    for t in range(5):
        output, state = lstm(inputs[:, t : t + 1], state)
        steps.append(output)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    assert state is not None
    torch.testing.assert_close(state, (hidden, cell))
    assert (hidden.shape, cell.shape) == ((2, 2, 8), (2, 2, 8))
    assert lstm.lstm.num_layers == 2
    assert ProjectedLSTM(3, 0, 8, 2)(inputs)[0].shape == (2, 5, 8)


def test_projections_are_exact_where_matrices_are_rounded() -> None:
    torch.manual_seed(0)
    lstm = ProjectedLSTM(3, 4, 8, 1)
    inputs = torch.randn(2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = lstm(inputs)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, lstm(inputs)[0], atol=0.02, rtol=0)


def test_draws_are_functions_of_their_seed() -> None:
    device = torch.device("cpu")
    first, second, other = (torch.rand(3, generator=generator_of(seed, device)) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert generator_of(np.int64(3), device).initial_seed() == generator_of(3, device).initial_seed()
