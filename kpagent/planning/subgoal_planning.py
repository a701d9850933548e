"""Planning in the space of subgoals (KeyIn Algorithm 1): of the ways that a keyframe model knows, one to the goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kpagent.planning.cem import CEMConfig, minimise

KeyframeSampler = Callable[[Tensor], Any]
"""Latents (N, M, Z) to keyframes (N, M, ...), the same for the same latents. A way of fewer keyframes repeats its last."""


@dataclass(frozen=True)
class SubgoalPlan:
    """Keyframes that lead to a goal.

    Attributes:
        keyframes: (M, ...), as the sampler gives them.
        latents: (M, Z), of which they come.
        cost: distance of the last of them from the goal; +inf where it is known of no way.
    """

    keyframes: Any
    latents: Tensor
    cost: float


@torch.no_grad()
def plan_subgoals(
    sample: KeyframeSampler,
    distance: Callable[[Any, Any], Any],
    goal: Any,
    latent_shape: tuple[int, int],
    config: CEMConfig | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SubgoalPlan:
    """Choose the latents of a keyframe model so that its last keyframe is like the goal.

    Args:
        sample: the model, given what is seen now.
        distance: (keyframes (N, ...), goal) to distances (N,); `kpagent.planning.costs` has some.
        goal: what the last keyframe is to be like, of the kind of keyframes.
        latent_shape: (M, Z).
        config: the search; it begins with the prior, mean 0 and standard deviation 1. Without, KeyIn Table 3's.
        seed: of the latents.
        device: where latents are wanted.

    Returns:
        The best plan.
    """
    generator = torch.Generator().manual_seed(seed)

    def last_from_goal(candidates: Tensor) -> Tensor:
        return torch.as_tensor(distance(sample(candidates[0])[:, -1], goal)).unsqueeze(0)

    found = minimise(last_from_goal, torch.zeros(1, *latent_shape, device=device), config, generator=generator)
    return SubgoalPlan(sample(found.best)[0], found.best[0], float(found.cost[0]))
