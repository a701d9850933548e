"""Which option each copy of an environment follows: drawn at random, kept for T interactions (Transporter section 3.2.2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.intrinsic import DIRECTIONS, most_controllable

EPSILON_RANGE = (1e-4, 0.4)
"""Of the random actions of actors, drawn log-uniformly."""


class OptionClock:
    """Keeps an option, (keypoint, direction), for each of N copies, and draws another when its time is over.

    Args:
        num_envs: N.
        num_keypoints: K.
        commitment: T, interactions for which an option is kept.
        generator: draws.

    Attributes:
        option: (N, 2) int64, the keypoint and the direction, an index into `DIRECTIONS`.
    """

    def __init__(self, num_envs: int, num_keypoints: int, commitment: int, generator: np.random.Generator) -> None:
        self.num_keypoints, self.commitment, self._generator = num_keypoints, commitment, generator
        self.option = np.zeros((num_envs, 2), np.int64)
        self._left = np.zeros(num_envs, np.int64)

    def tick(self, first: np.ndarray, values: Tensor | None = None) -> np.ndarray:
        """The options of one interaction.

        Args:
            first: (N,) bool, an episode begins: whatever was being done is over.
            values: (N, K, 4, A) Q-values. With them, the keypoint of a new option is the most controllable one (Eq. 2), as
                in evaluation; without, it is drawn uniformly, as in training.

        Returns:
            (N,) bool, where a new option was drawn.
        """
        over = first | (self._left == 0)
        count = int(over.sum())
        if values is None:
            self.option[over, 0] = self._generator.integers(self.num_keypoints, size=count)
        elif count:
            self.option[over, 0] = most_controllable(values).cpu().numpy()[over]
        self.option[over, 1] = self._generator.integers(len(DIRECTIONS), size=count)
        self._left[over] = self.commitment
        self._left -= 1
        return over


def option_actions(values: Tensor, option: np.ndarray) -> np.ndarray:
    """The greedy actions of given options.

    Args:
        values: (N, K, 4, A) Q-values.
        option: (N, 2) keypoint and direction.

    Returns:
        (N,) int64.
    """
    chosen = torch.as_tensor(option, device=values.device)
    rows = torch.arange(len(values), device=values.device)
    return values[rows, chosen[:, 0], chosen[:, 1]].argmax(dim=-1).cpu().numpy()


def draw_epsilons(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) shares of random actions, log-uniform over `EPSILON_RANGE`."""
    low, high = (math.log(bound) for bound in EPSILON_RANGE)
    return np.exp(generator.uniform(low, high, size=count))
