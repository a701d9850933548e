from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig, minimise


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def squares(centres: Tensor, weights: Tensor | float = 1.0) -> Any:
    """Sum of squared distances of all numbers from those of `centres` (B, ...)."""
    return lambda candidates: (weights * (candidates - centres.unsqueeze(1)) ** 2).flatten(2).sum(-1)


def test_the_lowest_point_of_a_bowl_is_found() -> None:
    centres = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.7]])
    config = CEMConfig(samples=100, elite_fraction=0.2, refits=40)
    found = minimise(squares(centres, torch.tensor([1.0, 3.0, 0.5])), torch.zeros(2, 3), config, generator=generators(1, 2))
    np.testing.assert_allclose(found.best, centres, atol=1e-3)
    np.testing.assert_allclose(found.mean, centres, atol=1e-3)
    assert found.cost.max() < 1e-6
    assert found.std.max() < 1e-2


def test_bounds_hold_where_the_lowest_point_lies_beyond_them() -> None:
    centres = torch.tensor([[3.0, 0.2, -3.0]])
    seen = []

    def objective(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        return squares(centres)(candidates)

    config = CEMConfig(samples=100, elite_fraction=0.1, refits=20, bounds=(-1.0, 0.5))
    found = minimise(objective, torch.full((1, 3), 7.0), config, generator=generators(0))
    np.testing.assert_allclose(found.best, [[0.5, 0.2, -1.0]], atol=1e-3)
    everything = torch.cat(seen, dim=1)
    assert everything.min() == -1
    assert everything.max() == 0.5


def test_a_bent_valley_is_followed_to_its_end() -> None:
    def rosenbrock(candidates: Tensor) -> Tensor:
        x, y = candidates.unbind(-1)
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    # A Gaussian without correlations narrows too soon in a bent valley: momentum and a floor keep it open.
    config = CEMConfig(samples=500, elite_fraction=0.02, refits=60, momentum=0.5, minimal_std=0.02)
    found = minimise(rosenbrock, torch.tensor([[-1.0, 1.0]]), config, generator=generators(0))
    np.testing.assert_allclose(found.best, [[1, 1]], atol=0.1)
    assert found.cost < 0.01


def test_of_many_hollows_the_deepest_is_found() -> None:
    def rastrigin(candidates: Tensor) -> Tensor:
        x = candidates - 0.7
        return (x**2 + 2 * (1 - torch.cos(2 * np.pi * x))).sum(-1)

    config = CEMConfig(samples=400, elite_fraction=0.05, refits=30, std=3.0)
    found = minimise(rastrigin, torch.full((1, 2), 3.0), config, generator=generators(0))
    np.testing.assert_allclose(found.best, [[0.7, 0.7]], atol=0.01)


CONFIGS = [
    CEMConfig(),
    CEMConfig(
        samples=30,
        elite_fraction=0.2,
        refits=7,
        std=2.0,
        minimal_std=0.1,
        momentum=0.3,
        bounds=(-1.0, 1.0),
        correlation=0.6,
        try_mean=True,
    ),
    CEMConfig(samples=50, refits=40, elite_fraction=0.1, early_stop=0.05),
]


def slowly(objective: Any, mean: np.ndarray, config: CEMConfig, seed: int) -> dict[str, Any]:
    """One problem (T, A), candidate by candidate."""
    generator = torch.Generator().manual_seed(seed)
    low, high = config.bounds or (-np.inf, np.inf)
    mean, std = np.clip(mean, low, high), np.full(mean.shape, config.std)
    best, lowest, rounds = mean, np.inf, 0
    for _ in range(config.refits):
        draws = torch.randn((1, config.samples, *mean.shape), generator=generator, dtype=torch.float64).numpy()[0]
        scored = []
        for number, draw in enumerate(draws):
            noise = [draw[0]]
            for one in draw[1:]:
                noise.append(config.correlation * noise[-1] + np.sqrt(1 - config.correlation**2) * one)
            if config.try_mean and number == 0:
                noise = [np.zeros_like(one) for one in noise]
            candidate = np.clip(mean + std * np.array(noise), low, high)
            cost = float(objective(torch.from_numpy(candidate)[None, None])[0, 0])
            scored.append((np.inf if np.isnan(cost) else cost, number, candidate))
        scored.sort(key=lambda one: one[:2])
        if scored[0][0] < lowest:
            lowest, best = scored[0][0], scored[0][2]
        elites = np.array([one[2] for one in scored[: config.elites] if one[0] < np.inf])
        rounds += 1
        if len(elites):
            mean = config.momentum * mean + (1 - config.momentum) * elites.mean(axis=0)
            std = config.momentum * std + (1 - config.momentum) * elites.std(axis=0)
            std = np.maximum(std, config.minimal_std)
        if std.max() <= config.early_stop:
            break
    return {"best": best if lowest < np.inf else mean, "cost": lowest, "mean": mean, "std": std, "rounds": rounds}


@pytest.mark.parametrize("config", CONFIGS, ids=["paper", "everything", "early_stop"])
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "nan"])
def test_results_are_those_of_a_slow_loop_alone_and_in_a_batch(config: CEMConfig, unknown: bool) -> None:
    centres = torch.linspace(-1.4, 1.4, 24, dtype=torch.float64).view(3, 4, 2)
    means = torch.linspace(1, -1, 24, dtype=torch.float64).view(3, 4, 2)

    def objective(centres: Tensor) -> Any:
        def costs(candidates: Tensor) -> Tensor:
            plain = squares(centres)(candidates)
            return torch.where(candidates[..., 0, 0] > 0.2, torch.nan, plain) if unknown else plain

        return costs

    together = minimise(objective(centres), means, config, generator=generators(5, 6, 7))
    if config.early_stop:
        assert together.rounds.max() < config.refits
    for number in range(3):
        one = slice(number, number + 1)
        alone = minimise(objective(centres[one]), means[one], config, generator=generators(5 + number))
        slow = slowly(objective(centres[one]), means[number].numpy(), config, 5 + number)
        for name, expected in slow.items():
            np.testing.assert_allclose(getattr(alone, name)[0], expected, rtol=1e-9, atol=1e-12, err_msg=name)
            np.testing.assert_array_equal(getattr(together, name)[number], getattr(alone, name)[0], err_msg=name)


def test_one_generator_serves_all_problems_and_the_same_seed_gives_the_same() -> None:
    centres = torch.tensor([[0.5], [0.5]])
    first, again, other = (
        minimise(squares(centres), torch.zeros(2, 1), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first.best, again.best)
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.best, other.best)
    assert first.best[0] != first.best[1]


@pytest.mark.parametrize("worst", [torch.nan, torch.inf])
def test_what_has_no_cost_is_neither_elite_nor_result(worst: float) -> None:
    # Known is only what is above 1, so 0.0 and what is near it would win if the unknown counted as zero.
    def objective(candidates: Tensor) -> Tensor:
        x = candidates[..., 0]
        return torch.where(x > 1, 5 + x**2, worst)

    config = CEMConfig(samples=20, elite_fraction=0.5, refits=15)
    found = minimise(objective, torch.zeros(4, 1), config, generator=generators(0, 1, 2, 3))
    assert (found.best > 1).all()
    np.testing.assert_allclose(found.best, 1, atol=0.2)
    np.testing.assert_allclose(found.cost, 5 + found.best[:, 0] ** 2, rtol=1e-6)


def test_where_nothing_has_a_cost_the_gaussian_stays() -> None:
    mean = torch.tensor([[0.25, -0.5], [0.0, 0.0]])

    def objective(candidates: Tensor) -> Tensor:
        costs = squares(torch.ones(2, 2))(candidates)
        costs[0] = torch.nan
        return costs

    found = minimise(objective, mean, CEMConfig(refits=30), generator=generators(0, 1))
    assert found.cost[0] == torch.inf
    assert torch.equal(found.best[0], mean[0])
    assert torch.equal(found.mean[0], mean[0])
    assert torch.equal(found.std[0], torch.ones(2))
    np.testing.assert_allclose(found.best[1], 1, atol=1e-3)


def test_a_warm_start_begins_where_it_is_told() -> None:
    far = torch.full((1, 3), 20.0)
    cold = minimise(squares(far), torch.zeros(1, 3), generator=generators(0))
    warm = minimise(squares(far), far - 0.1, generator=generators(0))
    assert warm.cost < 1 < cold.cost


def test_a_mean_that_is_tried_cannot_be_lost() -> None:
    mean = torch.tensor([[0.3, 0.4]])
    kept = minimise(squares(mean), mean, CEMConfig(samples=5, try_mean=True), generator=generators(0))
    assert torch.equal(kept.best, mean)
    assert kept.cost == 0
    assert minimise(squares(mean), mean, CEMConfig(samples=5), generator=generators(0)).cost > 0


def test_a_problem_that_is_done_stays_as_it_is_while_others_go_on() -> None:
    asked = []

    def objective(candidates: Tensor) -> Tensor:
        asked.append(candidates.shape)
        # The first problem's elites are all clipped to the same place at once.
        return candidates[..., 0] * torch.tensor([[1.0], [0.0]]) + squares(torch.zeros(2, 1))(candidates)

    config = CEMConfig(samples=40, elite_fraction=0.1, refits=12, std=5.0, bounds=(2.0, 10.0), minimal_std=0.0)
    found = minimise(objective, torch.tensor([[2.0], [9.0]]), config, generator=generators(0, 1))
    assert found.rounds[0] == 1
    assert found.std[0] == 0
    assert len(asked) == found.rounds.max()
    assert set(asked) == {(2, 40, 1)}


def test_correlation_makes_candidates_smooth_and_leaves_their_spread() -> None:
    drawn = []

    def objective(candidates: Tensor) -> Tensor:
        drawn.append(candidates)
        return candidates.new_zeros(candidates.shape[:2])

    config = CEMConfig(samples=20_000, refits=1, std=0.5, correlation=0.7)
    minimise(objective, torch.zeros(1, 6, 2), config, generator=generators(0))
    draws = drawn[0][0]
    np.testing.assert_allclose(draws.std(dim=0), 0.5, atol=0.01)
    for step in range(5):
        for number in range(2):
            pair = np.corrcoef(draws[:, step, number], draws[:, step + 1, number])[0, 1]
            assert pair == pytest.approx(0.7, abs=0.02)
            assert abs(np.corrcoef(draws[:, step, number], draws[:, step, 1 - number])[0, 1]) < 0.03 or number


@given(
    problems=st.integers(1, 3),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    samples=st.integers(1, 12),
    fraction=st.floats(0.01, 1.0),
    refits=st.integers(1, 3),
    unknown=st.floats(0, 1),
)
def test_any_shape_and_any_costs(
    problems: int, shape: list[int], samples: int, fraction: float, refits: int, unknown: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = []

    def objective(candidates: Tensor) -> Tensor:
        assert candidates.shape == (problems, samples, *shape)
        costs = torch.rand(problems, samples, generator=generator)
        costs[torch.rand(problems, samples, generator=generator) < unknown] = torch.nan
        seen.append((candidates, costs))
        return costs

    # With a floor no problem is done before the others.
    config = CEMConfig(samples=samples, elite_fraction=fraction, refits=refits, bounds=(-1.0, 1.0), minimal_std=0.01)
    found = minimise(objective, torch.zeros(problems, *shape), config, generator=generator)
    candidates, costs = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
    for part in (found.best, found.mean, found.std):
        assert part.shape == (problems, *shape)
        assert part.isfinite().all()
    for problem in range(problems):
        known = costs[problem][~costs[problem].isnan()]
        if len(known):
            assert found.cost[problem] == known.min()
            same = (candidates[problem] == found.best[problem]).flatten(1).all(dim=1)
            assert (costs[problem][same] == known.min()).any()
        else:
            assert found.cost[problem] == torch.inf


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "samples must be a whole number, at least 1; got 0"),
        ({"elite_fraction": 0.0}, "elite_fraction must be above 0 and at most 1; got 0.0"),
        ({"refits": 0}, "refits must be a whole number, at least 1; got 0"),
        ({"std": 0.0}, "std must be above 0; got 0.0"),
        ({"minimal_std": -0.1}, "minimal_std must be at least 0; got -0.1"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; got 1.0"),
        ({"early_stop": 0.05, "minimal_std": 0.1}, "early_stop must be 0, or at least minimal_std"),
        ({"bounds": (1.0, 1.0)}, "bounds must be lowest and highest value"),
        ({"correlation": 1.0}, "correlation must be at least 0 and below 1; got 1.0"),
    ],
)
def test_mistakes_in_a_configuration_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CEMConfig(**fields)


def test_mistakes_in_a_call_are_named() -> None:
    with pytest.raises(ValueError, match="mean must be"):
        minimise(squares(torch.zeros(1)), torch.zeros(3), generator=generators(0))
    with pytest.raises(ValueError, match="2 problems need as many generators, not 1"):
        minimise(squares(torch.zeros(2, 1)), torch.zeros(2, 1), generator=generators(0))
    with pytest.raises(ValueError, match=r"costs must be \(1, 200\), not \(200,\)"):
        minimise(lambda candidates: torch.zeros(200), torch.zeros(1, 1), generator=generators(0))
