"""Games whose frames say which episode and which step they are, and what was done before; some of them break.

Importing this registers them, here and in whatever process imports it by an id such as "walking_games:Walk-v0".
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 36
ACTIONS = 4


class Walk(gym.Env[np.ndarray, np.int64]):
    """Episodes of 15 to 60 steps, each with a number of its own.

    Args:
        poison: after how many steps of all copies in a process the next one raises, again and again; 0 for never.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)
    steps_of_all = 0

    def __init__(self, poison: int = 0) -> None:
        self.poison = poison
        self.action_space = gym.spaces.Discrete(ACTIONS)
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.episode = self.step_number = self.left = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        # Whoever plays it, wherever and with whatever seed: no episode has the number of another.
        self.episode = int.from_bytes(os.urandom(4), "big")
        self.step_number, self.left = 0, int(self.np_random.integers(15, 61))
        return self._frame(ACTIONS), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Walk.steps_of_all += 1
        if self.poison and Walk.steps_of_all % self.poison == 0:
            raise RuntimeError("poison,\nas it does")
        self.step_number += 1
        return self._frame(int(action)), 1.0, self.step_number == self.left, False, {}

    def _frame(self, action: int) -> np.ndarray:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame[0, 0] = (self.step_number, action, 255)
        frame[0, 1, 0], frame[0, 2, 0], frame[0, 3, 0], frame[0, 4, 0] = self.episode.to_bytes(4, "big")
        # Something that moves.
        frame[10 : 10 + 8, self.step_number % 28 : self.step_number % 28 + 8] = 200
        return frame


def read(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Episode, step and action before, of (..., S, S, 3) frames."""
    episode = (frames[..., 0, 1:5, 0].astype(np.int64) << np.array([24, 16, 8, 0])).sum(axis=-1)
    return episode, frames[..., 0, 0, 0].astype(int), frames[..., 0, 0, 1].astype(int)


for name, poison in (("Walk-v0", 0), ("PoisonedWalk-v0", 1000), ("BrokenWalk-v0", 1)):
    gym.register(name, "walking_games:Walk", kwargs={"poison": poison}, disable_env_checker=True)
