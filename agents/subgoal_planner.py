"""An agent that reaches what a picture shows: through subgoals, by servoing from one to the next (KeyIn section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.planning.costs import EmbeddingDistance
from kpagent.planning.servoing import Distance, Servo, ServoingConfig


class World(Protocol):
    """What a planner sees of an environment, and what it expects of actions."""

    def see(self, frame: np.ndarray) -> Tensor:
        """What is seen in a frame (H, W, 3) uint8, of now or of a goal: (D,) float, NaN where it is not to be seen."""

    def observe(self, frame: np.ndarray, action: np.ndarray | None) -> Any:
        """What `foretell` begins with, after a frame that an action led to; None of the first frame of an episode."""

    def foretell(self, state: Any, actions: np.ndarray) -> Tensor:
        """What is seen after each of the actions (N, T, A), in the env's units: (N, T, D), or after the last, (N, 1, D)."""


@dataclass(frozen=True)
class Subgoals:
    """The way to a goal.

    Attributes:
        seen: (M, D), what a world is to see at each, in order; the goal itself is not among them.
        cost: distance of the end of the way from the goal, or NaN where nobody looked for one.
        pictures: (M, H, W, 3) uint8, where a model has painted them.
    """

    seen: Tensor
    cost: float = float("nan")
    pictures: np.ndarray | None = None


SubgoalSource = Callable[[np.ndarray, np.ndarray, Distance, int], Subgoals]
"""(frame now, goal image, distance of this episode, seed) to the way between; `kpagent.agents.subgoal_sources` has some."""
DistanceBetween = Callable[[Tensor, Tensor], Distance]
"""What is seen now and at the goal, to the distance by which an episode goes."""


def euclidean(start: Tensor, goal: Tensor) -> Distance:
    """Euclidean distance of what is seen, in all episodes."""
    return EmbeddingDistance()


@dataclass
class Pursuit:
    """One episode: the state of `SubgoalPlanner.predict`.

    Attributes:
        servo: what chooses actions; its goals are what is to be seen at the subgoals, and at the goal.
        subgoals: the plan.
        action: (A,) the last that was chosen, in the environment's units; None before the first.
        over: whether the goal is reached or the actions are spent.
    """

    servo: Servo
    subgoals: Subgoals
    action: np.ndarray | None = None
    over: bool = field(default=False)

    @property
    def arrived(self) -> bool:
        """Whether the goal is reached, as far as the world sees."""
        return self.servo.arrived


class SubgoalPlanner:
    """Reaches the goal that an image shows, in any environment whose frames are its observations.

    At the first frame of an episode it asks for subgoals (Algorithm 1); before each action it looks, by the cross-entropy
    method and the world's dynamics, for those after which the world sees what is least far from the subgoal (Algorithm 4).
    When the goal is reached, or the actions are spent, it rests.

    Args:
        env: with frames (H, W, 3) uint8 as observations and a bounded `Box` of actions (A,); nothing is done in it.
        world: what is seen, and what follows from actions.
        subgoals: gives the way to a goal; straight to it, if not given.
        distance: gives that of what is seen from a goal, for each episode; Euclidean, if not given. NaN is the worst.
        config: of the servoing. Its bounds are of actions that are scaled to them from the environment's.
        rest: (A,) action that is taken when it is over; the middle of the bounds, if not given.
        seed: of all that is drawn, with the number of the episode.

    Attributes:
        begun: episodes so far.

    Raises:
        UsageError: observations or actions of another kind.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        world: World,
        *,
        subgoals: SubgoalSource | None = None,
        distance: DistanceBetween = euclidean,
        config: ServoingConfig | None = None,
        rest: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        frames, actions = env.observation_space, env.action_space
        if not isinstance(frames, gym.spaces.Box) or frames.dtype != np.uint8 or frames.shape[2:] != (3,):
            raise UsageError(f"the planner needs frames (H, W, 3) of uint8 as observations, not {frames}")
        if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.is_bounded():
            raise UsageError(f"the planner needs actions (A,) of numbers with bounds, not {actions}")
        self.world, self.config, self.seed = world, config or ServoingConfig(), seed
        self.begun = 0
        self._frame_shape: tuple[int, ...] = frames.shape
        self._low, self._high = actions.low, actions.high
        self._rest = (self._low + self._high) / 2 if rest is None else np.asarray(rest, np.float32)
        self._subgoals, self._distance = subgoals, distance
        self._goal: np.ndarray | None = None
        bounds = self.config.cem.bounds
        if bounds is None:
            raise UsageError("the search of servoing needs bounds, to which the environment's actions are scaled")
        self._bounds = bounds

    def set_goal(self, image: np.ndarray) -> None:
        """Say what is to be reached, by the episodes that begin from now on.

        Args:
            image: (H, W, 3) uint8, of the size of observations.

        Raises:
            UsageError: of another size or type, or the world does not see in it what it looks for.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != self._frame_shape:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UsageError(f"the goal image must be uint8 {self._frame_shape} as the observations, not {found}")
        if not bool(torch.isfinite(self.world.see(image)).all()):
            raise UsageError("the goal image does not show what the planner looks for")
        self._goal = image.copy()

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[Pursuit, ...]]:
        """Choose an action, as Stable-Baselines3's policies do.

        Args:
            observation: (H, W, 3) uint8, or (1, H, W, 3) of a vector environment of one copy.
            state: what the last call returned; None begins an episode.
            episode_start: whether the observation is the first of an episode.
            deterministic: not used; all that is drawn hangs on the seed.

        Returns:
            The action, (A,) or (1, A), and the state: a `Pursuit`, which is changed by every call.

        Raises:
            UsageError: no goal was set.
            ValueError: observations of another shape.
        """
        frames = np.asarray(observation)
        batched = frames.ndim == len(self._frame_shape) + 1
        if frames.shape != ((1,) if batched else ()) + self._frame_shape:
            raise ValueError(f"an observation must be {self._frame_shape}, alone or in a batch of one, not {frames.shape}")
        frame = frames[0] if batched else frames
        begins = state is None or (episode_start is not None and bool(np.any(episode_start)))
        pursuit = self._begin(frame) if begins or state is None else state[0]
        pursuit.action = self._act(pursuit, frame)
        return (pursuit.action[None] if batched else pursuit.action), (pursuit,)

    def _begin(self, frame: np.ndarray) -> Pursuit:
        if self._goal is None:
            raise UsageError("the planner has no goal; give it one with set_goal")
        seed = int(np.random.SeedSequence((self.seed, self.begun)).generate_state(1)[0])
        self.begun += 1
        goal = self.world.see(self._goal)
        distance = self._distance(self.world.see(frame), goal)
        way = Subgoals(goal.new_zeros(0, *goal.shape))
        if self._subgoals is not None:
            way = self._subgoals(frame, self._goal, distance, seed)
        servo = Servo(self._foretell, distance, [*way.seen, goal], len(self._low), self.config, seed=seed)
        return Pursuit(servo, way)

    def _act(self, pursuit: Pursuit, frame: np.ndarray) -> np.ndarray:
        state = self.world.observe(frame, pursuit.action)
        chosen = None if pursuit.over else pursuit.servo.act(state, self.world.see(frame))
        pursuit.over = chosen is None
        return self._rest.copy() if chosen is None else self._to_env(chosen)

    def _foretell(self, state: Any, actions: Tensor) -> Tensor:
        return self.world.foretell(state, self._to_env(actions))

    def _to_env(self, actions: Tensor) -> np.ndarray:
        """Actions (..., A) within the bounds of the search, within the environment's."""
        low, high = self._bounds
        share = (actions.cpu().numpy() - low) / (high - low)
        return (self._low + share * (self._high - self._low)).astype(np.float32)
