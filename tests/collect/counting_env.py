"""An env whose frames say which env, which episode and which step they are, so that what becomes of them can be followed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 16


def episode_length(env: int, episode: int) -> int:
    """From 1 to 53 steps, different from episode to episode."""
    return 1 + (7 * episode + 11 * env) % 53


class CountingEnv(gym.Env[np.ndarray, np.int64]):
    """Pixel (0, 0) holds (env number, episode, steps so far); every fourth episode is truncated, the others terminate.

    Args:
        number: of the env.
        image: whether observations are frames; without, frames are rendered.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, number: int, image: bool = True) -> None:
        self.render_mode = None if image else "rgb_array"
        self.number = number
        self.episode = -1
        self.steps = 0
        self.renders = 0
        self.action_space = gym.spaces.Discrete(3)
        frame = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.observation_space = frame if image else gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == episode_length(self.number, self.episode)
        truncated = over and self.episode % 4 == 3
        return self._observation(), float("nan"), over and not truncated, truncated, {}

    def render(self) -> np.ndarray:
        self.renders += 1
        return self._frame()

    def _observation(self) -> np.ndarray:
        return self._frame() if self.render_mode is None else np.zeros(2, np.float32)

    def _frame(self) -> np.ndarray:
        frame = np.full((SIZE, SIZE, 3), 7, np.uint8)
        frame[0, 0] = (self.number, self.episode, self.steps)
        return frame
