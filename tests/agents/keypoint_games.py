"""Games of a keypoint in which one fault alone keeps an agent from learning, in the manner of rejax's probes."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

Seen = dict[str, np.ndarray]


class KeypointGame(gym.Env[Seen, Any]):
    """One keypoint on a line, present or not; `play` says what becomes of an action.

    Attributes:
        actions: number of actions.
        keypoints: of which only the first means anything.
    """

    actions: ClassVar[int] = 1
    keypoints: ClassVar[int] = 1
    depth: ClassVar[int] = 0

    def __init__(self) -> None:
        shape = (self.keypoints,)
        parts: dict[str, gym.Space[Any]] = {
            "xy": gym.spaces.Box(-1, 1, (*shape, 2), np.float32),
            "presence": gym.spaces.Box(0, 1, shape, np.float32),
        }
        if self.depth:
            parts["features"] = gym.spaces.Box(-np.inf, np.inf, (*shape, self.depth), np.float32)
        self.observation_space: gym.Space[Any] = gym.spaces.Dict(parts)
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(self.actions)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(self.begin()), {}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        x, reward, terminated, truncated = self.play(int(action))
        return self.seen(x), reward, terminated, truncated, {}

    def seen(self, x: float | None, y: float = 0.0) -> Seen:
        """What is seen where the keypoint is at (x, y), or absent."""
        xy = np.full((self.keypoints, 2), (0 if x is None else x, y), np.float32)
        seen = {"xy": xy, "presence": np.full(self.keypoints, x is not None, np.float32)}
        if self.depth:
            seen["features"] = np.full((self.keypoints, self.depth), x or 0, np.float32)
        return seen

    def begin(self) -> float | None:
        """Where the keypoint is at first."""
        return 0.0

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        """Where the keypoint is then, the reward, and whether the episode terminated or was truncated."""
        raise NotImplementedError


class OneReward(KeypointGame):
    """One action, one step, a reward of 1: fails where a value cannot be learned at all."""

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.0, 1.0, True, False


class SeenReward(KeypointGame):
    """The reward, 1 or -1, is where the keypoint is: fails where the observation does not reach the value."""

    def begin(self) -> float | None:
        self.side = 1 if self.np_random.random() < 0.5 else -1
        return 0.5 * self.side

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.0, float(self.side), True, False


class LateReward(KeypointGame):
    """A reward of 1 in the last of two steps: fails where values are not bootstrapped."""

    def begin(self) -> float | None:
        return -0.5

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.5, float(self.steps == 2), self.steps == 2, False


class EndlessReward(KeypointGame):
    """A reward of 1 a step, cut off after 4: fails where a truncation counts as an end."""

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.0, 1.0, False, self.steps == 4


class ChosenReward(KeypointGame):
    """The second of two actions is rewarded, the first is punished: fails where actions and rewards are mixed up."""

    actions = 2

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.0, 2.0 * action - 1, True, False


class Sides(KeypointGame):
    """The action that names the keypoint's side is rewarded, over several steps: the identity that must be learned."""

    actions = 2

    def begin(self) -> float | None:
        self.side = int(self.np_random.integers(2))
        return self.side - 0.5

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        reward = 1.0 if action == self.side else -1.0
        return self.begin(), reward, self.steps == 8, False


class RememberedSide(KeypointGame):
    """The side shows at first only, and is asked for two steps later: fails without a recurrent state."""

    actions = 2

    def begin(self) -> float | None:
        self.side = int(self.np_random.integers(2))
        return self.side - 0.5

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        over = self.steps == 3
        return None, (1.0 if action == self.side else -1.0) if over else 0.0, over, False


class Walk(KeypointGame):
    """A keypoint wanders; episodes of many lengths, some terminated, some truncated, and rewards of all kinds.

    Each environment's episodes are determined by its seed and the actions.
    """

    actions = 3

    def begin(self) -> float | None:
        self.x = float(self.np_random.uniform(-1, 1))
        self.length = int(self.np_random.integers(1, 8))
        return self.x

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        self.x = float(np.clip(self.x + 0.2 * (action - 1) + self.np_random.normal(0, 0.05), -1, 1))
        over = self.steps == self.length
        return self.x, 3 * self.x, over and self.length % 2 == 0, over and self.length % 2 == 1


class ManyActions(KeypointGame):
    """Sixteen actions that change nothing, in an episode without end."""

    actions = 16

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        return 0.25, 0.0, False, False


class FeatureWalk(Walk):
    """`Walk` of two keypoints with three features."""

    keypoints = 2
    depth = 3


class FourActions(Walk):
    """`Walk` with an action more."""

    actions = 4


class TwoKeypoints(Walk):
    """`Walk` with a keypoint more."""

    keypoints = 2


class Continuous(Walk):
    """`Walk` with an action that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
