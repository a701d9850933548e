"""Episodes of a task with continuous actions, moment by moment: to learn from, to measure, and on film."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from kpagent.agents.keypoint_mpc import Deliberation, KeypointMPC
from kpagent.collect.episodes import Episode
from kpagent.drawing import draw_keypoints
from kpagent.envs.control_sequences import action_bounds

_TRUE, _FORETOLD, _GRID = (255, 255, 255), (255, 170, 40), (60, 60, 60)


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame of an episode and what was decided on it; a scene of `kpagent.envs.recording.record`.

    Attributes:
        number: actions before it.
        frame: (S, S, 3) uint8.
        action: (A,) in [-1, 1], what was done on it; None on the last frame.
        rewards: what each action before it has brought.
        expected: what the planner expected of each of these when it took it; empty of other policies.
        foretold: (T,) what it expects of its plan.
        xy: (K, 2) keypoints that were seen; None where nobody looks for any.
        over: whether it is the last.
    """

    number: int
    frame: np.ndarray
    action: np.ndarray | None
    rewards: tuple[float, ...]
    expected: tuple[float, ...]
    foretold: np.ndarray
    xy: np.ndarray | None
    over: bool

    @property
    def total(self) -> float:
        """The return so far."""
        return float(np.sum(self.rewards))

    @property
    def title(self) -> str:
        """What the curve shows."""
        return "reward: white; foretold: orange" if self.expected or len(self.foretold) else "reward: white"

    @property
    def note(self) -> str:
        """The number of actions, and the return so far."""
        return f"action {self.number}, return {self.total:.1f}"

    def draw(self, scale: int) -> np.ndarray:
        """The frame with its keypoints, and beside it the rewards that came and those that were, and are, foretold."""
        places = np.zeros((0, 2)) if self.xy is None else self.xy
        shown = draw_keypoints(self.frame, places, scale=scale)
        return np.concatenate([shown, _curves(self, shown.shape[0])], axis=1)


class RandomPolicy:
    """Uniform actions within the bounds, a new one at every frame.

    Args:
        space: of the actions, a bounded `Box`.
        seed: of the draws.
    """

    def __init__(self, space: gym.spaces.Box, seed: int) -> None:
        self._low, self._high = action_bounds("the environment", space)
        self._space, self._draws = space, np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """An action; nothing is looked at."""
        drawn = self._draws.uniform(self._low, self._high).reshape(self._space.shape)
        return drawn.astype(self._space.dtype), state


def play(policy: Any, env: gym.Env[Any, Any], seed: int, *, longest: int, deterministic: bool = True) -> Iterator[Moment]:
    """One episode.

    Args:
        policy: with `predict`, as Stable-Baselines3's policies.
        env: whose observations are frames.
        seed: of the reset.
        longest: actions, after which the episode ends in any case.
        deterministic: of `predict`.

    Yields:
        The first frame and that after each action, when the next has been chosen.
    """
    low, high = action_bounds("the environment", env.action_space)
    frame, _ = env.reset(seed=seed)
    state, over = None, False
    rewards: tuple[float, ...] = ()
    expected: tuple[float, ...] = ()
    while True:
        if over or len(rewards) == longest:
            yield Moment(len(rewards), frame, None, rewards, expected, np.zeros(0), None, True)
            return
        action, state = policy.predict(frame, state, deterministic=deterministic)
        share = (np.asarray(action, np.float64).reshape(-1) - low) / (high - low)
        foretold, xy = _thoughts(policy, state)
        yield Moment(len(rewards), frame, 2 * share - 1, rewards, expected, foretold, xy, False)
        frame, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        rewards = (*rewards, float(reward))
        expected = (*expected, float(foretold[0])) if len(foretold) else expected


def gather(moments: Iterator[Moment], on_moment: Callable[[Moment], None] = lambda moment: None) -> Episode:
    """A whole episode to learn from."""
    frames, actions = [], []
    for moment in moments:
        frames.append(moment.frame)
        if moment.action is not None:
            actions.append(moment.action)
        on_moment(moment)
    return Episode.of(np.stack(frames), np.stack(actions), np.array(moment.rewards))


def _thoughts(policy: Any, state: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """What a planner expects, and where it sees keypoints."""
    if not isinstance(policy, KeypointMPC):
        return np.zeros(0), None
    now: Deliberation = state[0]
    places = getattr(policy.model, "places", None)
    return now.foretold.float().cpu().numpy(), None if places is None else places(now.belief)


def _curves(moment: Moment, side: int) -> np.ndarray:
    """Rewards over time, a panel half as wide again as high: those of the past, and the plan's after them."""
    panel = np.zeros((side, 3 * side // 2, 3), np.uint8)
    width = 100
    first = max(0, moment.number - width)
    values = np.concatenate([moment.rewards, moment.expected, moment.foretold, [0.0]])
    low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1e-6)
    margin = side // 16

    def line(numbers: np.ndarray, rewards: np.ndarray, color: tuple[int, int, int]) -> None:
        x = margin + (numbers - first) / (width + 20) * (panel.shape[1] - 2 * margin)
        y = side - margin - (rewards - low) / (high - low) * (side - 2 * margin)
        points = np.rint(np.stack([x, y], axis=1) * 16).astype(np.int32)
        cv2.polylines(panel, [points[:, None]], False, color, max(1, side // 160), cv2.LINE_AA, 4)

    for level in (low, 0.0, high):
        line(np.array([first, first + width + 20.0]), np.array([level, level]), _GRID)
    past = np.arange(first, moment.number)
    if len(moment.expected):
        line(past, np.array(moment.expected)[first:], _FORETOLD)
    if len(past):
        line(past, np.array(moment.rewards)[first:], _TRUE)
    if len(moment.foretold):
        line(moment.number + np.arange(len(moment.foretold)), moment.foretold, _FORETOLD)
    return panel
