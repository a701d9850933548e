"""What a keypoint option is rewarded for, and which keypoint can be controlled most (Transporter section 3.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

DIRECTIONS = ("right", "left", "down", "up")
"""In the paper's order, j = 1 to 4: x grows, x shrinks, y grows, y shrinks."""


def directional_rewards(before: Tensor, after: Tensor) -> Tensor:
    """How far each keypoint moves in each of four directions: r_{i,1} to r_{i,4} of section 3.2.2.

    Args:
        before: (..., K, 2) coordinates in [-1, 1].
        after: (..., K, 2), of the next observation.

    Returns:
        (..., K, 4) in [-2, 2], in the order of `DIRECTIONS`.

    Raises:
        ValueError: shapes differ, or the last axis is not 2.
    """
    if before.shape != after.shape or before.shape[-1:] != (2,):
        raise ValueError(f"before {tuple(before.shape)} and after {tuple(after.shape)} must have one shape (..., K, 2)")
    moved = after - before
    return torch.stack([moved[..., 0], -moved[..., 0], moved[..., 1], -moved[..., 1]], dim=-1)


def control_gap(values: Tensor) -> Tensor:
    """How much actions matter to where each keypoint goes (Eq. 2, before the argmax).

    Args:
        values: (..., K, 4, A) Q-values Q_{i,j}(s; a).

    Returns:
        (..., K): mean over directions of the largest less the smallest value of any action.

    Raises:
        ValueError: the axis of directions is not 4.
    """
    if values.ndim < 3 or values.shape[-2] != len(DIRECTIONS):
        raise ValueError(f"values must be (..., K, 4, A), not {tuple(values.shape)}")
    return (values.amax(dim=-1) - values.amin(dim=-1)).mean(dim=-1)


def most_controllable(values: Tensor) -> Tensor:
    """The keypoint that actions move most, π_Qgap (Eq. 2).

    Args:
        values: (..., K, 4, A) Q-values Q_{i,j}(s; a).

    Returns:
        (...) int64, from 0 to K - 1.

    Raises:
        ValueError: the axis of directions is not 4.
    """
    return control_gap(values).argmax(dim=-1)
