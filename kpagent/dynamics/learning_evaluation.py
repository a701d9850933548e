"""What held-out sequences say of a Struct-VRNN while it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.learning_batches import wanted
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

WINDOWS = 128
"""Windows that are looked at, where so many are held out."""
PAINTED = 32
"""Of these, how many are painted, which costs far more."""
SAMPLES = 10
"""Futures of each window, of which the best is counted."""

_CHUNK = 8


@dataclass(frozen=True)
class ImageFigures:
    """What is painted from the codes of held-out frames."""

    loss: float
    """The loss of the code."""
    l2: float
    """Mean squared error of a pixel in [0, 1]; the first frame of a window, which is given, does not count."""
    copy_l2: float
    """The same of copying the first frame: what a code that says nothing can always reach."""


@dataclass(frozen=True)
class FutureFigures:
    """How the codes of held-out frames go on, as the model imagines it after T of them."""

    loss: float
    """The loss of the dynamics, as at the end of training."""
    errors: tuple[float, ...]
    """Root mean squared error of a number of a code, at each step ahead, of the best of 10 futures; the best of a window is
    the one with the smallest error over all steps."""
    constant_errors: tuple[float, ...]
    """The same of the last observed code, kept."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of a model."""

    loss: float
    """What the stage minimises."""
    image: ImageFigures
    """Of its code."""
    future: FutureFigures | None
    """Of its dynamics; None while the code alone is learned."""

    @property
    def copy_share(self) -> float:
        """Squared error of what is painted, as a share of that of copying the first frame."""
        return self.image.l2 / max(self.image.copy_l2, 1e-12)

    def figures(self) -> dict[str, Any]:
        """As plain values, for the header of weights."""
        known: dict[str, Any] = {"loss": self.loss, "l2": self.image.l2, "copy_l2": self.image.copy_l2}
        if self.future is not None:
            known |= {"code_errors": list(self.future.errors), "constant_errors": list(self.future.constant_errors)}
        return known


class HeldOut:
    """Windows that are not learned from, of T + ΔT frames each.

    Args:
        sequences: those held out.
        config: of the model.

    Raises:
        UsageError: not one such window.
    """

    def __init__(self, sequences: Sequences, config: StructVRNNConfig) -> None:
        length = config.dynamics.observed + config.dynamics.predicted
        longest = int(sequences.lengths.max())
        if longest < length:
            held = (
                f"of the sequences in {sequences.path}, {len(sequences)} are held out, and the longest has {longest} frames"
            )
            raise UsageError(f"{held}, where {length} are needed: give more sequences, or longer ones")
        windows = sequences.ordered(length, WINDOWS)
        self.batch = {name: windows[name] for name in wanted(config)}

    @property
    def frames(self) -> Any:
        """(N, T + ΔT, S, S, 3) uint8."""
        return self.batch["frames"]

    @property
    def actions(self) -> Any:
        """(N, T + ΔT, A), or None where the model has none."""
        return self.batch.get("actions")

    @torch.no_grad()
    def codes(self, model: StructVRNN) -> Tensor:
        """(N, T + ΔT, 3K) of all windows."""
        model.eval()
        return torch.cat([model.encode_sequence(self.frames[i : i + _CHUNK]) for i in range(0, len(self.frames), _CHUNK)])

    @torch.no_grad()
    def image_figures(self, model: StructVRNN) -> ImageFigures:
        """Measure the code; the model is put into evaluation mode."""
        model.eval()
        count = min(PAINTED, len(self.frames))
        sums = torch.zeros(3, dtype=torch.float64)
        for start in range(0, count, _CHUNK):
            part = {name: values[start : min(start + _CHUNK, count)] for name, values in self.batch.items()}
            loss, metrics = model.code.loss(part)
            images = model.code.to_images(part["frames"])
            copied = (images[:, :1] - images[:, 1:]).square().mean()
            sums += torch.stack([loss, metrics["l2"], copied]).double().cpu() * len(part["frames"])
        return ImageFigures(*(sums / count).tolist())

    @torch.no_grad()
    def future_figures(self, model: StructVRNN, codes: Tensor) -> FutureFigures:
        """Measure the dynamics on codes of all windows; the model is put into evaluation mode."""
        model.eval()
        observed, predicted = model.config.dynamics.observed, model.config.dynamics.predicted
        loss, _ = model.dynamics.loss({"codes": codes, "actions": self.actions, "progress": 1.0, "seed": 0})
        before, after = None, None
        if self.actions is not None:
            before, after = self.actions[:, :observed], self.actions[:, observed - 1 : -1]
        belief, _ = model.observe(codes[:, :observed], before)
        futures = model.imagine(belief, predicted, samples=SAMPLES, actions=after, seed=0)
        came = codes[:, observed:]
        errors = (futures - came.unsqueeze(1)).square().mean(dim=-1)
        best = errors.mean(dim=-1).argmin(dim=1)
        nearest = errors[torch.arange(len(errors), device=errors.device), best]
        kept = (codes[:, observed - 1 : observed] - came).square().mean(dim=-1)
        return FutureFigures(
            float(loss), tuple(nearest.mean(dim=0).sqrt().tolist()), tuple(kept.mean(dim=0).sqrt().tolist())
        )
