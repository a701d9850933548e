"""An agent that plans before every action: model-predictive control by the cross-entropy method in imagined keypoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.envs.control_sequences import action_bounds
from kpagent.errors import UsageError
from kpagent.fields import require, require_types
from kpagent.planning.cem import CEMConfig, minimise


class PlanningModel(Protocol):
    """What a planner knows of the world; actions are in [-1, 1]."""

    @property
    def actions(self) -> int:
        """A, numbers in an action."""

    def begin(self, frame: np.ndarray) -> Any:
        """What is held after the first frame (H, W, 3) uint8 of an episode."""

    def follow(self, state: Any, action: Tensor, frame: np.ndarray) -> Any:
        """What is held after an action (A,) more and the frame that it led to."""

    def foresee(self, state: Any, actions: Tensor, *, futures: int = 0, seed: int = 0) -> Tensor:
        """The rewards (N, T) that each of the actions (N, T, A) would bring."""


@dataclass(frozen=True)
class MPCConfig:
    """How an action is looked for. `minimise` has the rest of the numbers, those of `search`."""

    horizon: int = 12
    """T, actions that are planned ahead."""
    candidates: int = 500
    """Ways to act in each round."""
    rounds: int = 4
    """Of drawing, imagining and narrowing."""
    elite_fraction: float = 0.1
    """Share of the candidates that the search is narrowed to."""
    correlation: float = 0.5
    """Of each draw with the action before it."""
    minimal_std: float = 0.05
    """Of the search; the bounds are 2 apart."""
    futures: int = 0
    """Samples of what the model is not sure of, the same for all candidates, over which imagined rewards are averaged; 0
    follows the mean of its beliefs, which takes as long as one."""
    noise: float = 0.3
    """Standard deviation of what is added to an action that is not deterministic (PlaNet's)."""

    def __post_init__(self) -> None:
        require_types(self)
        checks = {
            "horizon must be at least 1": self.horizon >= 1,
            "candidates must be at least 2": self.candidates >= 2,
            "rounds must be at least 1": self.rounds >= 1,
            "futures must not be negative": self.futures >= 0,
            "noise must not be negative": self.noise >= 0,
        }
        require(self, checks)
        self.search()

    def search(self) -> CEMConfig:
        """The cross-entropy method's own configuration."""
        return CEMConfig(
            samples=self.candidates,
            refits=self.rounds,
            elite_fraction=self.elite_fraction,
            minimal_std=self.minimal_std,
            correlation=self.correlation,
            bounds=(-1.0, 1.0),
            try_mean=True,
        )


@dataclass
class Deliberation:
    """One episode: the state of `KeypointMPC.predict`.

    Attributes:
        belief: what the model holds.
        draws: of the episode.
        plan: (T, A) in [-1, 1], the next action and those that would follow.
        foretold: (T,), the rewards that the model expects of it.
        action: (A,) in [-1, 1], the one that was taken: the plan's, with noise where it was asked for.
    """

    belief: Any
    draws: torch.Generator
    plan: Tensor
    foretold: Tensor = field(default_factory=lambda: torch.zeros(0))
    action: Tensor = field(default_factory=lambda: torch.zeros(0))


class KeypointMPC:
    """Chooses each action by imagining what would follow, in an environment whose observations are frames.

    Before each action, sequences of actions are drawn and imagined; the search is narrowed to the best of them, several
    times, and the first action of its mean is taken. The next search begins with the rest of this plan.

    Args:
        env: with frames (H, W, 3) uint8 as observations and a bounded `Box` of actions; nothing is done in it.
        model: what it plans in, such as a `ControlModel`.
        config: how.
        seed: of all that is drawn, with the number of the episode.

    Attributes:
        begun: episodes so far.

    Raises:
        UsageError: other observations or actions, or a model with actions of another size.
    """

    def __init__(
        self, env: gym.Env[Any, Any], model: PlanningModel, config: MPCConfig | None = None, *, seed: int = 0
    ) -> None:
        frames, name = env.observation_space, env.spec.id if env.spec is not None else str(env.unwrapped)
        if not isinstance(frames, gym.spaces.Box) or frames.dtype != np.uint8 or frames.shape[2:] != (3,):
            raise UsageError(f"the planner needs frames (H, W, 3) of uint8 as observations; {name} has {frames}")
        self._low, self._high = action_bounds(name, env.action_space)
        if model.actions != len(self._low):
            raise UsageError(f"the model has actions of {model.actions} numbers, and those of {name} have {len(self._low)}")
        self.model, self.config, self.seed = model, config or MPCConfig(), seed
        self.begun = 0
        self._search = self.config.search()
        self._frame_shape, self._space = frames.shape, env.action_space

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[Deliberation, ...]]:
        """Choose an action, as Stable-Baselines3's policies do.

        Args:
            observation: (H, W, 3) uint8, or (1, H, W, 3) of a vector environment of one copy.
            state: what the last call returned; None begins an episode.
            episode_start: whether the observation is the first of an episode.
            deterministic: without it, noise is added to the action, to learn from what it leads to.

        Returns:
            The action in the environment's units, alone or in a batch of one, and the state: a `Deliberation`, which is
            changed by every call.

        Raises:
            ValueError: observations of another shape or type.
        """
        frames = np.asarray(observation)
        batched = frames.ndim == len(self._frame_shape) + 1
        if frames.dtype != np.uint8 or frames.shape != ((1,) if batched else ()) + self._frame_shape:
            wanted = f"uint8 {self._frame_shape}, alone or in a batch of one"
            raise ValueError(f"an observation must be {wanted}, not {frames.dtype} {frames.shape}")
        frame = frames[0] if batched else frames
        if state is None or (episode_start is not None and bool(np.any(episode_start))):
            now = self._begin(frame)
        else:
            now = state[0]
            now.belief = self.model.follow(now.belief, now.action, frame)
            # The last action of the plan that is left is the best guess for the one behind it.
            now.plan = torch.cat([now.plan[1:], now.plan[-1:]])
        self._think(now)
        now.action = now.plan[0]
        if not deterministic and self.config.noise:
            noise = torch.randn(now.action.shape, generator=now.draws) * self.config.noise
            now.action = (now.action + noise).clamp(-1, 1)
        action = self._to_env(now.action)
        return (action[None] if batched else action), (now,)

    def _begin(self, frame: np.ndarray) -> Deliberation:
        seed = np.random.SeedSequence((self.seed, self.begun, 1)).generate_state(1, np.uint64)[0]
        self.begun += 1
        draws = torch.Generator().manual_seed(int(seed >> 1))
        return Deliberation(self.model.begin(frame), draws, torch.zeros(self.config.horizon, self.model.actions))

    @torch.no_grad()
    def _think(self, now: Deliberation) -> None:
        """Plan anew from the plan that is left."""
        seed = int(torch.randint(2**31, (1,), generator=now.draws))

        def rewards(actions: Tensor) -> Tensor:
            return self.model.foresee(now.belief, actions, futures=self.config.futures, seed=seed)

        def cost(candidates: Tensor) -> Tensor:
            return -rewards(candidates[0]).sum(dim=1)[None].to(candidates)

        now.plan = minimise(cost, now.plan[None], self._search, generator=now.draws).mean[0]
        now.foretold = rewards(now.plan[None])[0]

    def _to_env(self, action: Tensor) -> np.ndarray:
        """An action (A,) in [-1, 1] within the environment's bounds."""
        share = (action.double().cpu().numpy() + 1) / 2
        own: np.ndarray = (self._low + share * (self._high - self._low)).reshape(self._space.shape or ())
        return own.astype(self._space.dtype)
