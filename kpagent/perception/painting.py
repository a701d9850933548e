"""Detectors that learn by painting frames: RefineNet, the background it paints on, and the squared error of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.frames import fold_patches, unfold_patches
from kpagent.perception.detector import DetectorConfig, KeypointDetector
from kpagent.perception.networks import RefineNet


class FramePainter(KeypointDetector):
    """Base of methods whose loss compares a painted frame with a real one.

    Args:
        config: its shape.
        inputs: channels that RefineNet takes.
        strides: of RefineNet.
        residual: whether RefineNet only adds to a picture that is there already; it then starts by adding nothing.
        provenance: what its weights came from.

    Attributes:
        refine: RefineNet; None in weights for inference only.
    """

    training_only: ClassVar[tuple[str, ...]] = ("refine", "background")
    refine: RefineNet | None

    def __init__(
        self,
        config: DetectorConfig,
        inputs: int,
        strides: Sequence[int],
        residual: bool,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, provenance)
        size = config.image_size // config.patch
        shape = (config.filters, strides, config.first_kernel, config.normalization)
        self.refine = RefineNet(inputs, 3 * config.patch**2, size, *shape)
        self.residual = residual
        if residual:
            self.register_buffer("background", torch.zeros(3, config.image_size, config.image_size))
            for parameter in self.refine.layers[-1].parameters():
                nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _paint(self, features: Tensor) -> Tensor:
        """What RefineNet makes of features, on the background if there is one: (N, inputs, H', W') to (N, 3, size, size)."""
        painted: Tensor = self._require_refine()(features)
        if self.residual:
            assert self.background is not None
            painted = painted + fold_patches(self.background[None], self.config.patch)
        return unfold_patches(painted, self.config.patch)

    def _require_refine(self) -> RefineNet:
        if self.refine is None:
            raise UsageError("these weights hold what inference needs and no more; train a checkpoint of kpagent pretrain")
        return self.refine


def picture_loss(image: Tensor, target: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The squared error between painted and real frames.

    Args:
        image: (N, 3, size, size), painted.
        target: (N, 3, size, size), real.
        batch: optionally `weight`, (size, size), by which the squared error of each pixel is multiplied, and `tolerance`, c:
            the error ℓ of a frame then enters as c log(1 + ℓ / c), so that a frame far worse than c cannot outweigh all
            others.

    Returns:
        The mean over the frames, and the mean squared error without weights or tolerance.
    """
    error = (image.float() - target).square().mean(dim=1)
    weighted = error * batch["weight"].to(error) if "weight" in batch else error
    of_frame = weighted.mean(dim=(1, 2))
    if "tolerance" in batch:
        of_frame = batch["tolerance"] * torch.log1p(of_frame / batch["tolerance"])
    return of_frame.mean(), error.mean().detach()
