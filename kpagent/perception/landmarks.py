"""Landmarks as the code of an autoencoder (Zhang et al. 2018), the other method that Transporter was published against.

A single frame is painted from K landmarks and a short descriptor of what is at each. Nothing in painting alone makes
landmarks of places, so three further losses say what a landmark is: one place (concentration), a place of its own
(separation), and the same place of the scene when the frame is warped (equivariance).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from kpagent.frames import fold_patches, to_images
from kpagent.keypoints import cell_centres, gaussian_maps, pool_features
from kpagent.perception.detector import DetectorConfig
from kpagent.perception.painting import FramePainter, picture_loss
from kpagent.perception.warping import draw_warp

RELEASED = {"concentration": 100 / 9600, "separation": 20 / 9600, "equivariance": 10_000 / 9600}
"""The released weights, 100, 20 and 10,000, beside a mean squared error of weight 1. There it is half the sum over the
3 × 80² values of a frame, in turn times 0.1, 1 and 10 as training goes on; this is the middle."""


@dataclass(frozen=True)
class LandmarkConfig(DetectorConfig):
    """The shape and the losses of a LandmarkAutoencoder. `paper` and `fast` are the presets."""

    image_size: int = 80
    """Height and width of the frames that the networks see; 80 as in Transporter section 4.1."""
    expectation: Literal["marginal", "joint", "channels"] = "channels"
    """Softmax over the K + 1 maps at each cell; each of the first K is then divided by its sum over the cells."""
    logit_scale: float = 1.0
    """Factor on the maps before their softmax."""
    residual: bool = True
    """RefineNet only adds what is missing from the background, as in a residual Transporter."""
    descriptor: int = 8
    """Numbers in the descriptor of each landmark, and in that of the background."""
    concentration: float = RELEASED["concentration"]
    """Weight of the concentration loss, beside 1 of the mean squared error of pixels."""
    separation: float = RELEASED["separation"]
    """Weight of the separation loss."""
    separation_std: float = 0.08
    """How near landmarks repel each other, where the image is 1 wide."""
    equivariance: float = RELEASED["equivariance"]
    """Weight of the equivariance loss."""
    bend: float = 0.1
    """Of the warps: standard deviation of the displacement of each of 7×7 points, in coordinate units."""
    rotation: float = 10.0
    """Of the warps: standard deviation of the angle, in degrees."""
    scaling: float = 1.25
    """Of the warps: factor of one standard deviation of the scaling."""
    shift: float = 0.3
    """Of the warps: largest shift along each axis, in coordinate units."""

    @classmethod
    def paper(cls, num_keypoints: int, **changes: Any) -> Self:
        """Frames, descriptors, losses and warps of the release, in the networks of Transporter Appendix A."""
        return super().paper(num_keypoints, **({"image_size": 80, "expectation": "channels", "residual": False} | changes))

    def _checks(self) -> dict[str, bool]:
        checks = super()._checks()
        del checks["expectation must be marginal or joint"]
        positive = ("separation_std", "scaling")
        at_least_0 = ("concentration", "separation", "equivariance", "bend", "rotation", "shift")
        return (
            checks
            | {
                "expectation must be channels": self.expectation == "channels",
                "residual must be true or false": isinstance(self.residual, bool),
                "descriptor must be from 1 to 1024": isinstance(self.descriptor, int) and 1 <= self.descriptor <= 1024,
            }
            | {f"{name} must be positive": _number(getattr(self, name)) and getattr(self, name) > 0 for name in positive}
            | {f"{name} must be at least 0": _number(getattr(self, name)) for name in at_least_0}
        )


class Descriptors(nn.Module):
    """To a short descriptor and back, by a linear map of its own for each landmark and for the background.

    Args:
        count: K + 1.
        features: D.
        descriptor: numbers in a descriptor.
    """

    def __init__(self, count: int, features: int, descriptor: int) -> None:
        super().__init__()
        self.shorten = nn.Parameter(torch.randn(count, features, descriptor) / math.sqrt(features))
        self.widen = nn.Parameter(torch.randn(count, descriptor, features) / math.sqrt(descriptor))

    def forward(self, features: Tensor) -> Tensor:
        """(N, K + 1, D) to (N, K + 1, D)."""
        return torch.einsum("nkd,kdc,kce->nke", features, self.shorten, self.widen).relu()


class LandmarkAutoencoder(FramePainter):
    """The model: `loss` to train it, `encode` to use it. The last map of Ψ is the background's.

    Args:
        config: its shape.
        provenance: what its weights came from (environment, frames, steps, seed, versions, figures), as JSON values; it
            travels in the header of every file that `save` writes.
    """

    kind = "zhang"
    config_type = LandmarkConfig
    spare_maps = 1
    training_only = (*FramePainter.training_only, "descriptors")
    config: LandmarkConfig
    descriptors: Descriptors | None

    def __init__(self, config: LandmarkConfig, provenance: Mapping[str, Any] | None = None) -> None:
        maps = config.num_keypoints + 1
        super().__init__(config, config.filters[-1] + maps, config.strides, config.residual, provenance)
        self.descriptors = Descriptors(maps, config.filters[-1], config.descriptor)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What painting a frame from its landmarks misses, and the three losses that make landmarks of places.

        Args:
            batch: `target`, (N, H, W, 3) uint8; optionally `seed`, numbers that the warps are drawn from, and `weight` and
                `tolerance`, for the pixels (see `kpagent.perception.painting.picture_loss`).

        Returns:
            The loss, a scalar, and metrics: `l2`, the mean squared error without weights, and `concentration`,
            `separation` and `equivariance`, without theirs.

        Raises:
            UsageError: these weights were saved for inference only.
        """
        self._require_refine()
        config = self.config
        frames = to_images(batch["target"], self.image_size, self.device)
        strength = {name: getattr(config, name) for name in ("bend", "rotation", "scaling", "shift")}
        warp = draw_warp(batch.get("seed", (0,)), len(frames), **strength).to(self.device)
        # In one batch, so that a frame is normalised in training as it is afterwards.
        shown = frames
        if config.difference:
            assert self.background is not None
            shown = frames - self.background
        maps = self.detections(self.keynet(fold_patches(torch.cat([shown, warp.images(shown)]), config.patch)))
        xy, variance = moments(maps)
        plain, warped = xy.chunk(2)
        image = self._paint(self._layout(self.features(fold_patches(frames, config.patch)), plain))
        painting, l2 = picture_loss(image, frames, batch)
        losses = {
            "concentration": concentration_loss(variance),
            "separation": separation_loss(xy, config.separation_std),
            "equivariance": equivariance_loss(warp(warped), plain),
        }
        total = painting + sum(getattr(config, name) * loss for name, loss in losses.items())
        return total, {"l2": l2} | {name: loss.detach() for name, loss in losses.items()}

    def detections(self, logits: Tensor) -> Tensor:
        """Where each landmark may be: a distribution over the cells.

        Args:
            logits: (N, K + 1, H, W), the maps of Ψ.

        Returns:
            (N, K, H, W); each sums to one.
        """
        shares = (logits.float() * self.config.logit_scale).log_softmax(dim=1)[:, : self.num_keypoints]
        # Dividing each share by its sum over the cells, without leaving the logarithm.
        return shares.flatten(-2).softmax(dim=-1).view(shares.shape)

    def _expect(self, logits: Tensor) -> Tensor:
        return moments(self.detections(logits))[0]

    def _layout(self, features: Tensor, xy: Tensor) -> Tensor:
        """What RefineNet paints from: at each cell, the share of each landmark, and their descriptors in these shares."""
        assert self.descriptors is not None
        height, width = features.shape[-2:]
        std = self.config.heatmap_std
        near = gaussian_maps(xy, height, width, std)
        everywhere = torch.ones_like(near[:, :1])
        described = self.descriptors(pool_features(features.float(), torch.cat([near, everywhere], dim=1)))
        # The density of each Gaussian, where that of the background, which is uniform, is 1.
        density = torch.cat([near * (4 / (2 * math.pi * std**2)), everywhere], dim=1)
        shares = density / density.sum(dim=1, keepdim=True)
        return torch.cat([shares, torch.einsum("nkd,nkhw->ndhw", described.float(), shares)], dim=1)


def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of distributions over cells.

    Args:
        maps: (N, K, H, W); each sums to one.

    Returns:
        Means (N, K, 2), (x, y) in (-1, 1), and variances (N, K, 2) along x and y.
    """
    columns = cell_centres(maps.shape[-1], device=maps.device, dtype=maps.dtype)
    rows = cell_centres(maps.shape[-2], device=maps.device, dtype=maps.dtype)
    along_x, along_y = maps.sum(dim=-2), maps.sum(dim=-1)
    xy = torch.stack([(along_x * columns).sum(dim=-1), (along_y * rows).sum(dim=-1)], dim=-1)
    from_x, from_y = columns - xy[..., :1], rows - xy[..., 1:]
    variance = torch.stack([(along_x * from_x**2).sum(dim=-1), (along_y * from_y**2).sum(dim=-1)], dim=-1)
    return xy, variance


def concentration_loss(variance: Tensor) -> Tensor:
    """How far each landmark's map is spread: Σₖ 2πe (σ²ₖ,x + σ²ₖ,y)², where the image is 1 wide.

    Args:
        variance: (N, K, 2) of the landmarks' maps, in coordinate units.

    Returns:
        A scalar, the mean over the frames.
    """
    return (2 * math.pi * math.e * (variance / 4).sum(dim=-1).square()).sum(dim=-1).mean()


def separation_loss(xy: Tensor, std: float) -> Tensor:
    """How near landmarks are to each other: Σₖ≠ⱼ exp(-|lₖ - lⱼ|² / (2 std²)), where the image is 1 wide.

    Args:
        xy: (N, K, 2).
        std: how near counts as near.

    Returns:
        A scalar, the mean over the frames.
    """
    squared = (xy.unsqueeze(-2) - xy.unsqueeze(-3)).square().sum(dim=-1) / 4
    # Each landmark is at no distance from itself, which is no loss.
    return torch.exp(-squared / (2 * std**2)).sum(dim=(-2, -1)).mean() - xy.shape[-2]


def equivariance_loss(returned: Tensor, xy: Tensor) -> Tensor:
    """How far landmarks of a warped frame, taken back to the original, are from the original's: Σₖ |g(l'ₖ) - lₖ|².

    Args:
        returned: (N, K, 2), g(l').
        xy: (N, K, 2), l.

    Returns:
        A scalar, the mean over the frames.
    """
    return (returned - xy).square().sum(dim=(-2, -1)).mean()


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < 1e6
