"""A detector that learns from a stream of frames, while somebody plays: no dataset, no held-out pairs, no end.

The loss and the recipe are those of `pretraining`; what that takes from its dataset (the background, the weights of pixels,
the loss of copying) is estimated anew from the newest frames, ever more rarely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.fields import require
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.pretraining import copy_loss, pixel_weights
from kpagent.perception.reconstructor import Reconstructor
from kpagent.perception.revival import revive
from kpagent.training import prefers_bf16

DrawPairs = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""So many frame pairs of the moment, source and target, (N, S, S, 3) uint8 each."""


@dataclass(frozen=True)
class OnlineConfig:
    """How a detector learns from a stream."""

    batch_size: int = 32
    """Pairs a step."""
    learning_rate: float = 1e-3
    """Adam's, at the start."""
    settle_steps: int = 2_500
    """Steps along which the learning rate falls, by half a cosine, to `late_rate`."""
    late_rate: float = 1e-4
    """The learning rate from then on: keypoints that are learned from should not wander."""
    balance: float = 0.5
    """As of `PretrainingConfig`."""
    tolerance: float = 5.0
    """As of `PretrainingConfig`."""
    revive_every: int = 250
    """As of `PretrainingConfig`; during the first 60% of `settle_steps`. 0 turns it off."""

    def __post_init__(self) -> None:
        checks = {
            "batch_size must be at least 2": self.batch_size >= 2,
            "learning_rate must be positive": self.learning_rate > 0,
            "settle_steps must be at least 1": self.settle_steps >= 1,
            "late_rate must be positive": self.late_rate > 0,
            "balance must be from 0 to 1": 0 <= self.balance <= 1,
            "tolerance must not be negative": self.tolerance >= 0,
            "revive_every must not be negative": self.revive_every >= 0,
        }
        require(self, checks)


class OnlineTrainer:
    """Takes one step at a time on the pairs of the moment.

    Args:
        model: to train, on its device.
        config: how.

    Attributes:
        steps: taken so far.
    """

    def __init__(self, model: KeypointDetector, config: OnlineConfig) -> None:
        self.model, self.config = model, config
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.steps = 0
        self._constants: dict[str, Any] | None = None
        self._bf16 = prefers_bf16(model.device)

    def step(self, draw: DrawPairs) -> Tensor:
        """One optimiser step; returns the loss, still on the device.

        Raises:
            FloatingPointError: the loss is no longer finite; parameters are as before.
        """
        # As often as the steps double, and then now and then: what is seen changes most at first.
        if self._constants is None or self.steps % 2_000 == 0 or (self.steps & (self.steps - 1) == 0 and self.steps >= 64):
            self._estimate(*draw(400))
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        source, target = draw(self.config.batch_size)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._bf16):
            loss, _ = self.model.loss({"source": source, "target": target, "seed": (self.steps,)} | (self._constants or {}))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of the keypoints is {loss.item()}; a lower learning rate may help")
        self.optimizer.step()
        self.steps += 1
        every = self.config.revive_every
        due = every and self.steps % every == 0 and self.steps <= 0.6 * self.config.settle_steps
        if due and isinstance(self.model, Reconstructor):
            source, target = draw(max(64, 4 * self.config.batch_size))
            revive(self.model, {"source": source, "target": target} | (self._constants or {}))
        self.model.eval()
        return loss.detach()

    def learning_rate(self) -> float:
        """Of the next step."""
        share = min(1.0, self.steps / self.config.settle_steps)
        late = self.config.late_rate
        return late + (self.config.learning_rate - late) * (0.5 + 0.5 * math.cos(math.pi * share))

    def state_dict(self) -> dict[str, Tensor]:
        """What is needed to go on, besides the model's parameters and the number of steps."""
        state = self.optimizer.state_dict()["state"]
        tensors = {f"optimizer.{i}.{name}": value for i, slots in state.items() for name, value in slots.items()}
        constants = {f"constant.{name}": torch.as_tensor(value) for name, value in (self._constants or {}).items()}
        return tensors | constants

    def load_state_dict(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take up what `state_dict` gave after so many steps."""
        slots: dict[int, dict[str, Tensor]] = {}
        constants: dict[str, Any] = {}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            if kind == "constant":
                constants[rest] = value if value.ndim else float(value)
            else:
                index, _, slot = rest.partition(".")
                slots.setdefault(int(index), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self._constants, self.steps = constants or None, steps

    def _estimate(self, source: np.ndarray, target: np.ndarray) -> None:
        self.model.set_background(target)
        weight = pixel_weights(target, self.model.image_size, self.config.balance)
        self._constants = {"weight": weight}
        if self.config.tolerance:
            self._constants["tolerance"] = self.config.tolerance * max(float(copy_loss(source, target, weight)), 1e-6)
