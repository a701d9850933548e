"""The cross-entropy method (Rubinstein and Kroese 2004) for many problems side by side (KeyIn section 10).

Each problem has a Gaussian without correlations between its numbers. In each round, candidates are drawn from it, clipped to
the bounds and scored; the Gaussian is fitted to the elites, the best of them.

Scores are costs: lower is better, here and in all of `kpagent.planning`. A cost that is NaN or +inf counts as the worst:
such a candidate is never an elite and never the result. Where fewer candidates have a cost than there are elites, the
Gaussian is fitted to those; where none has, it stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kpagent.errors import UsageError

Objective = Callable[[Tensor], Tensor]
"""Candidates (B, N, ...) to costs (B, N)."""


@dataclass(frozen=True)
class CEMConfig:
    """How candidates are drawn, and how the Gaussian is fitted. The numbers are those of KeyIn Table 3."""

    samples: int = 200
    """N, candidates of each problem in each round."""
    elite_fraction: float = 0.05
    """Share of the candidates that the Gaussian is fitted to, rounded, at least one."""
    refits: int = 3
    """Rounds of drawing, scoring and fitting, at most."""
    std: float = 1.0
    """Standard deviation in the first round."""
    minimal_std: float = 0.0
    """No fitted standard deviation is below this."""
    momentum: float = 0.0
    """Share of the old mean and of the old standard deviation that is kept in a fit."""
    early_stop: float = 0.0
    """A problem is done when none of its fitted standard deviations is above this; 0 goes through all rounds, unless all
    elites are the same."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value of each number of a candidate, or None."""
    correlation: float = 0.0
    """Of each draw with the one before it along a problem's first axis, such as time; above 0, candidates are smooth."""
    try_mean: bool = False
    """Make the mean itself the first candidate of each round, so that what a warm start begins with is not lost."""

    def __post_init__(self) -> None:
        low, high = self.bounds or (-1.0, 1.0)
        checks = {
            "samples": ("a whole number, at least 1", isinstance(self.samples, int) and self.samples >= 1),
            "elite_fraction": ("above 0 and at most 1", 0 < self.elite_fraction <= 1),
            "refits": ("a whole number, at least 1", isinstance(self.refits, int) and self.refits >= 1),
            "std": ("above 0", 0 < self.std < float("inf")),
            "minimal_std": ("at least 0", 0 <= self.minimal_std < float("inf")),
            "momentum": ("at least 0 and below 1", 0 <= self.momentum < 1),
            "early_stop": (
                "0, or at least minimal_std, or it would never stop",
                self.early_stop == 0 or self.early_stop >= max(self.minimal_std, 0),
            ),
            "bounds": ("lowest and highest value, the lowest below the highest", low < high),
            "correlation": ("at least 0 and below 1", 0 <= self.correlation < 1),
        }
        for name, (wanted, holds) in checks.items():
            if not holds:
                raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")

    @property
    def elites(self) -> int:
        """How many candidates the Gaussian is fitted to."""
        return max(1, round(self.elite_fraction * self.samples))


@dataclass(frozen=True)
class CEMResult:
    """What was found for B problems.

    Attributes:
        best: (B, ...), of all candidates of all rounds the one of lowest cost; the mean where none had a cost.
        cost: (B,), its cost; +inf where none had one.
        mean: (B, ...), of the Gaussian after the last fit.
        std: (B, ...), likewise.
        rounds: (B,) int64, rounds until a problem was done.
    """

    best: Tensor
    cost: Tensor
    mean: Tensor
    std: Tensor
    rounds: Tensor


@torch.no_grad()
def minimise(
    objective: Objective,
    mean: Tensor,
    config: CEMConfig | None = None,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
) -> CEMResult:
    """Look for what costs least.

    Args:
        objective: candidates (B, N, ...) to costs (B, N), lower is better. It is always asked about all problems.
        mean: (B, ...) float, the Gaussian's in the first round: zeros, or a warm start.
        config: how it is done.
        generator: what candidates are drawn with, in a fixed order: the same seed gives the same result. With a list of one
            for each problem, the result of a problem does not depend on the others. It may be on another device than
            `mean`, and then gives the same draws for all devices.

    Returns:
        What was found, on the device of `mean`.

    Raises:
        ValueError: a mean without problems or numbers, another number of generators, or costs of another shape.
    """
    config = config or CEMConfig()
    if mean.ndim < 2 or mean.numel() == 0 or not mean.is_floating_point():
        raise ValueError(f"mean must be (B, ...) floats, B at least 1, not {tuple(mean.shape)} of {mean.dtype}")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if not isinstance(generator, torch.Generator) and len(generators) != len(mean):
        raise ValueError(f"{len(mean)} problems need as many generators, not {len(generators)}")
    mean = _clip(mean, config)
    std = torch.full_like(mean, config.std)
    best, cost = mean, mean.new_full((len(mean),), float("inf"))
    rounds = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)
    running = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
    for _ in range(config.refits):
        noise = _draw(generators, config, mean)
        if config.try_mean:
            noise[:, 0] = 0
        candidates = _clip(mean.unsqueeze(1) + std.unsqueeze(1) * noise, config)
        costs = _check(objective(candidates), candidates)
        order = costs.argsort(dim=1, stable=True)[:, : config.elites]
        problems = torch.arange(len(mean), device=mean.device).unsqueeze(1)
        elites, elite_costs = candidates[problems, order], costs[problems, order]
        better = running & (elite_costs[:, 0] < cost)
        best = torch.where(_across(better, mean), elites[:, 0], best)
        cost = torch.where(better, elite_costs[:, 0], cost)
        counted = elite_costs < float("inf")
        fitted_mean, fitted_std = fit(elites, counted)
        moves = _across(running & counted.any(dim=1), mean)
        mean = torch.where(moves, torch.lerp(fitted_mean, mean, config.momentum), mean)
        std = torch.where(moves, torch.lerp(fitted_std, std, config.momentum).clamp_min(config.minimal_std), std)
        rounds += running
        running = running & (std.flatten(1).amax(dim=1) > config.early_stop)
        if not running.any():
            break
    best = torch.where(_across(cost < float("inf"), mean), best, mean)
    return CEMResult(best, cost, mean, std, rounds)


def fit(elites: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of those elites that count.

    Args:
        elites: (B, E, ...).
        counted: (B, E) bool.

    Returns:
        (B, ...) each, the deviation with E in the denominator; zeros where none counts.
    """
    weights = _across(counted, elites).to(elites.dtype)
    count = weights.sum(dim=1).clamp_min(1)
    mean = (weights * elites).sum(dim=1) / count
    square = (weights * (elites - mean.unsqueeze(1)) ** 2).sum(dim=1) / count
    return mean, square.sqrt()


def _draw(generators: Sequence[torch.Generator], config: CEMConfig, mean: Tensor) -> Tensor:
    """Standard normal noise (B, N, ...)."""
    shape = (len(mean) // len(generators), config.samples, *mean.shape[1:])
    parts = [torch.randn(shape, generator=one, device=one.device, dtype=mean.dtype) for one in generators]
    noise = torch.cat(parts).to(mean.device)
    for step in range(1, noise.shape[2] if config.correlation else 0):
        kept, new = config.correlation, (1 - config.correlation**2) ** 0.5
        noise[:, :, step] = kept * noise[:, :, step - 1] + new * noise[:, :, step]
    return noise


def _clip(values: Tensor, config: CEMConfig) -> Tensor:
    return values if config.bounds is None else values.clamp(*config.bounds)


def _check(costs: Tensor, candidates: Tensor) -> Tensor:
    if costs.shape != candidates.shape[:2]:
        raise ValueError(f"costs must be {tuple(candidates.shape[:2])}, not {tuple(costs.shape)}")
    return costs.to(candidates).nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))


def _across(flags: Tensor, like: Tensor) -> Tensor:
    """Flags with axes of length 1 behind, as many as `like` has."""
    return flags.view(*flags.shape, *(1,) * (like.ndim - flags.ndim))
