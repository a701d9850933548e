"""Values as a distribution over atoms, learned by classification (Farebrother et al. 2024, "Stop regressing")."""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTHING = 0.75
"""Standard deviation of the Gaussian around a value, in distances between atoms, as published."""


def gaussian_histogram(values: Tensor, support: Tensor) -> Tensor:
    """How likely each atom is under a Gaussian around each value, cut off at the ends of the support (HL-Gauss).

    Args:
        values: (...), clamped into the support.
        support: (N,) atoms at equal distances, rising.

    Returns:
        (..., N), which sum to 1.
    """
    width = support[1] - support[0]
    edges = torch.cat([support - width / 2, support[-1:] + width / 2])
    values = values.clamp(support[0], support[-1])
    below = torch.special.ndtr((edges - values.unsqueeze(-1)) / (SMOOTHING * width))
    mass = below[..., 1:] - below[..., :-1]
    return mass / mass.sum(dim=-1, keepdim=True)
