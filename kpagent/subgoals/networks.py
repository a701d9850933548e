"""The recurrent networks of KeyIn, their attention and their Gaussians (KeyIn section 3.1, Eq. 1 and 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""Hidden and cell state of an LSTM, each (layers, B, units)."""


class ProjectedLSTM(nn.Module):
    """An LSTM of several layers, with a linear projection before and after it (section 4).

    Args:
        inputs: numbers in.
        outputs: numbers out; 0 for a network of which the state alone is used.
        units: of each layer.
        layers: how many.
    """

    def __init__(self, inputs: int, outputs: int, units: int, layers: int) -> None:
        super().__init__()
        self.before = nn.Linear(inputs, units)
        self.lstm = nn.LSTM(units, units, layers, batch_first=True)
        self.after = nn.Linear(units, outputs) if outputs else None

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read (B, L, inputs); give (B, L, outputs) in float32, or the hidden states without outputs, and the last state."""
        hidden, state = self.lstm(_exact(self.before, inputs), state)
        return (hidden if self.after is None else _exact(self.after, hidden)), state


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mean of values by the likeness of their keys to a query (Eq. 1 and 2).

    Args:
        query: (B, Q).
        keys: (B, L, Q).
        values: (B, L, V).

    Returns:
        (B, V).

    Raises:
        ValueError: ranks or sizes do not fit.
    """
    if query.ndim != 2 or keys.ndim != 3 or values.ndim != 3 or keys.shape[:2] != values.shape[:2]:
        shapes = [tuple(part.shape) for part in (query, keys, values)]
        raise ValueError(f"query, keys and values must be (B, Q), (B, L, Q) and (B, L, V), not {shapes}")
    # Products and sums, not a matrix product, which autocast would round to bfloat16.
    weights = (keys * query.unsqueeze(1)).sum(dim=-1, keepdim=True).softmax(dim=1)
    return (weights * values).sum(dim=1)


def split_gaussian(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (..., Z) from a network's output (..., 2 Z), half of which is the logarithm of the latter."""
    mean, log_std = values.float().chunk(2, dim=-1)
    return mean, log_std.clamp(-8, 4).exp()


def unit_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, I)), summed over the last axis, in nats (Eq. 3)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(dim=-1)


def generator_of(seed: Any, device: torch.device) -> torch.Generator:
    """A generator of random numbers there, from a whole number or several."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


def _exact(layer: nn.Module, values: Tensor) -> Tensor:
    """In float32: bfloat16 would round codes that are coordinates to an eighth of a pixel of 64."""
    with torch.autocast(values.device.type, enabled=False):
        result: Tensor = layer(values.float())
        return result
