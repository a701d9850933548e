"""A point that is moved in a picture, with a goal image: the smallest environment for a planner."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

SIZE = 32
STEP = 0.25
"""How far an action of full strength moves the point along an axis."""


class PointEnv(gym.Env[np.ndarray, np.ndarray]):
    """A white point on black. Actions are (2,) from 0 to 10, where 5 is rest."""

    observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gym.spaces.Box(0, 10, (2,), np.float32)

    def __init__(self, goal: tuple[float, float] = (0.7, 0.7)) -> None:
        self.place, self.goal = np.zeros(2), np.array(goal)
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = np.array([-0.7, -0.7])
        self.actions.clear()
        return draw(self.place), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action.shape == (2,)
        assert action.min() >= 0
        assert action.max() <= 10
        self.actions.append(action)
        self.place = np.clip(self.place + STEP * (action - 5) / 5, -0.9, 0.9)
        distance = float(np.linalg.norm(self.place - self.goal))
        return draw(self.place), -distance, False, len(self.actions) >= 30, {"distance": distance}

    def goal_image(self) -> np.ndarray:
        return draw(self.goal)


class PointWorld:
    """Sees the brightest pixel, knows how it moves, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[np.ndarray | None] = []

    def see(self, frame: np.ndarray) -> Tensor:
        rows, columns = np.nonzero(frame[..., 0])
        if not len(rows):
            return torch.full((2,), torch.nan)
        return torch.tensor([(2 * columns.mean() + 1) / SIZE - 1, (2 * rows.mean() + 1) / SIZE - 1]).float()

    def observe(self, frame: np.ndarray, action: np.ndarray | None) -> Tensor:
        self.told.append(action)
        return self.see(frame)

    def foretell(self, state: Tensor, actions: np.ndarray) -> Tensor:
        return state + torch.from_numpy(STEP * (actions - 5) / 5).cumsum(dim=1)


def draw(place: np.ndarray) -> np.ndarray:
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    column, row = np.floor((place + 1) / 2 * SIZE).astype(int)
    frame[row, column] = 255
    return frame
