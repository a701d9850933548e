"""Ways to a goal from models of keyframes: KeyIn and its forms, surprise, and TAP (KeyIn Algorithm 1, sections 9 and 10).

Each source is called with the frame now, the goal image, a distance of what a world sees and a seed, and gives `Subgoals`.
How frames become what a model reads, and its codes what a world sees, is a `Reading`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.subgoal_planner import Subgoals
from kpagent.agents.subgoal_readings import Reading
from kpagent.planning.cem import CEMConfig
from kpagent.planning.servoing import Distance
from kpagent.planning.subgoal_planning import plan_subgoals
from kpagent.subgoals.keyin import Keyframes, KeyIn
from kpagent.subgoals.surprise import SurprisePredictor, surprise_peaks
from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor


class KeyInSubgoals:
    """Algorithm 1: of the ways that a KeyIn knows, the one whose last keyframe within the sequence is nearest to the goal.

    Args:
        model: KeyIn, or one of its forms, such as jumpy. It is given the first frame as often as it wants frames.
        reading: of its codes.
        search: as of `plan_subgoals`.
    """

    def __init__(self, model: KeyIn, reading: Reading, *, search: CEMConfig | None = None) -> None:
        self.model, self.reading, self.search = model, reading, search

    def __call__(self, frame: np.ndarray, goal: np.ndarray, distance: Distance, seed: int) -> Subgoals:
        """Plan."""
        config = self.model.config
        given = _repeat(self.reading.read(frame), config.given)

        def sample(latents: Tensor) -> Tensor:
            return last_repeated(self.model.predict(given, latents[None]))[0]

        def far(codes: Tensor, wanted: Tensor) -> Any:
            return distance(self.reading.see_code(codes), wanted)

        shape = (config.keyframes, config.latent)
        plan = plan_subgoals(sample, far, self.reading.see(goal), shape, self.search, seed=seed)
        return _way(plan.keyframes, plan.cost, self.reading)


class TimeAgnosticSubgoals:
    """TAP: frames between now and the goal that are surest to be passed, halved again and again.

    Args:
        model: TAP.
        reading: of its codes.
        depth: how often; 2 gives three subgoals.
    """

    def __init__(self, model: TimeAgnosticPredictor, reading: Reading, *, depth: int = 2) -> None:
        self.model, self.reading, self.depth = model, reading, depth

    def __call__(self, frame: np.ndarray, goal: np.ndarray, distance: Distance, seed: int) -> Subgoals:
        """Foretell; nothing is drawn."""
        first, last = (_repeat(self.reading.read(one), 1)[0] for one in (frame, goal))
        return _way(self.model.subgoals(first, last, self.depth)[0], float("nan"), self.reading)


class SurpriseSubgoals:
    """Of the futures that a frame-by-frame predictor knows, the one that ends nearest to the goal, and its keyframes.

    The cross-entropy method chooses the latents of all frames, as Algorithm 1 chooses those of keyframes; Algorithm 3 then
    tells the keyframes of the future that was found. The paper does not say how it planned with surprise.

    Args:
        model: the predictor, of codes.
        reading: of its codes.
        search: as of `plan_subgoals`.
    """

    def __init__(self, model: SurprisePredictor, reading: Reading, *, search: CEMConfig | None = None) -> None:
        self.model, self.reading, self.search = model, reading, search

    def __call__(self, frame: np.ndarray, goal: np.ndarray, distance: Distance, seed: int) -> Subgoals:
        """Plan."""
        config, codec = self.model.config, self.model.codec
        given = codec.encode(codec.observe(_repeat(self.reading.read(frame), 1), self.model.device))[:, 0]

        def far(codes: Tensor, wanted: Tensor) -> Any:
            return distance(self.reading.see_code(codes), wanted)

        shape = (config.frames, config.latent)
        plan = plan_subgoals(
            lambda latents: imagine(self.model, given, latents), far, self.reading.see(goal), shape, self.search, seed=seed
        )
        # That a frame surprises makes the one before it a keyframe; the first of the future is the earliest.
        surprise = self.model.surprise(torch.cat([given, plan.keyframes])[None])[0, 1:]
        chosen = surprise_peaks(surprise, config.keyframes)
        return _way(plan.keyframes[torch.from_numpy(chosen)], plan.cost, self.reading)


@torch.no_grad()
def imagine(model: SurprisePredictor, first: Tensor, latents: Tensor) -> Tensor:
    """Futures of a frame-by-frame predictor.

    Args:
        model: the predictor.
        first: (1, D), the code of the frame now.
        latents: (N, L, Z), of the frames after it.

    Returns:
        (N, L, D) codes.
    """
    before, state, made = first.expand(len(latents), -1), None, []
    for latent in latents.to(first.device).unbind(1):
        change, state = model.predictor(torch.cat([before, latent], dim=-1).unsqueeze(1), state)
        before = model.codec.onward(before, change[:, 0])
        made.append(before)
    return torch.stack(made, dim=1)


def last_repeated(found: Keyframes) -> Tensor:
    """Codes (..., M, D) of keyframes, with the last one within the sequence in place of those after its end.

    A keyframe beyond the end was never compared with a frame in training; the first is kept wherever it is.
    """
    numbers = torch.arange(found.times.shape[-1], device=found.times.device)
    inside = torch.where(found.times < found.length, numbers, 0).cummax(dim=-1).values
    return found.codes.gather(-2, inside.unsqueeze(-1).expand_as(found.codes))


def _way(codes: Tensor, cost: float, reading: Reading) -> Subgoals:
    """Subgoals of codes (M, D), without those that repeat the one before, and those that the world cannot see."""
    seen = reading.see_code(codes)
    new = torch.ones(len(codes), dtype=torch.bool, device=codes.device)
    new[1:] = (codes[1:] != codes[:-1]).any(dim=-1)
    kept = new.cpu() & torch.isfinite(seen).all(dim=-1).cpu()
    codes, seen = codes[kept.to(codes.device)], seen[kept.to(seen.device)]
    painted = None if reading.paint is None or not len(codes) else reading.paint(codes)
    return Subgoals(seen, cost, painted)


def _repeat(one: Any, times: int) -> Any:
    """(1, times, ...) of one frame or code."""
    return np.repeat(np.asarray(one)[None], times, axis=0)[None]
