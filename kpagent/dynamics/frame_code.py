"""Frames to codes and back: keypoints with a scale each (Struct-VRNN section 3.1), learned or given, or a plain vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from kpagent.dynamics.configuration import CodeConfig
from kpagent.dynamics.networks import SLOPE, FramePainter, FrameReader, squared_kernels
from kpagent.dynamics.objectives import separation_loss, sparsity_loss
from kpagent.errors import UsageError
from kpagent.frames import to_images
from kpagent.keypoints import joint_expectation, map_expectation, mean_intensity, scaled_gaussian_maps
from kpagent.perception.detector import KeypointDetector


class FrameCode(nn.Module, ABC):
    """What turns images into codes and paints images from them; `loss` trains both.

    Args:
        config: its shape and losses.
    """

    painter: FramePainter

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        self.config = config
        self.appearance = FrameReader(config)

    @abstractmethod
    def read(self, images: Tensor) -> Tensor:
        """Codes (N, 3K) float32 of images (N, 3, S, S) in [0, 1]."""

    @abstractmethod
    def maps(self, codes: Tensor) -> Tensor:
        """What the painter sees of codes: (N, 3K) to (N, C, M, M)."""

    @abstractmethod
    def extra_losses(self, codes: Tensor) -> dict[str, Tensor]:
        """Losses of codes (B, T, 3K) besides the painting's, weighted, by name."""

    def paint(self, first_images: Tensor, first_codes: Tensor, codes: Tensor) -> Tensor:
        """Images from codes and from the first frame of their sequence (Eq. S5), in float32.

        Args:
            first_images: (B, 3, S, S), v_1.
            first_codes: (B, 3K), its codes.
            codes: (B, T, 3K).

        Returns:
            (B, T, 3, S, S), about [0, 1].
        """
        batch, length = codes.shape[:2]
        fixed = torch.cat([self.maps(first_codes), self.appearance(first_images)], dim=1)
        fixed = fixed.unsqueeze(1).expand(-1, length, -1, -1, -1).flatten(0, 1)
        painted: Tensor = self.painter(torch.cat([self.maps(codes.flatten(0, 1)), fixed], dim=1))
        return first_images.unsqueeze(1) + painted.float().unflatten(0, (batch, length))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of painted frames, and what makes the code parsimonious (Eq. 5 and section 4.1).

        The squared error is half the sum over the pixels of a frame, averaged over frames.

        Args:
            batch: `frames`, (B, T, H, W, 3) uint8; `truth`, (B, T, P, 2) true positions, for a supervised form.

        Returns:
            The loss, and `image`, `separation` and the like, weighted, and `l2`, the mean squared error of a pixel.

        Raises:
            UsageError: true positions of more points than there are keypoints.
        """
        loss, metrics, _ = self.loss_and_codes(batch)
        return loss, metrics

    def loss_and_codes(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """As `loss`, with the codes (B, T, 3K) of the frames, without gradient."""
        count, length = batch["frames"].shape[:2]
        images = self.to_images(batch["frames"])
        codes = self.read(images.flatten(0, 1)).unflatten(0, (count, length))
        # The first frame is given: painting it would teach nothing.
        error = (self.paint(images[:, 0], codes[:, 0], codes[:, 1:]) - images[:, 1:]).square()
        losses = {"image": 0.5 * error.sum(dim=(2, 3, 4)).mean()} | self.extra_losses(codes)
        if self.config.weight_decay:
            losses["weight_decay"] = self.config.weight_decay * squared_kernels(self)
        if self.config.supervision:
            losses["supervision"] = self.config.supervision * self._misplaced(codes, batch["truth"])
        metrics = {name: value.detach() for name, value in losses.items()} | {"l2": error.detach().mean()}
        return torch.stack(list(losses.values())).sum(), metrics, codes.detach()

    def to_images(self, frames: Any) -> Tensor:
        """Frames (B, T, H, W, 3) uint8 as images (B, T, 3, S, S) in [0, 1]."""
        device = next(self.parameters()).device
        images = to_images(frames.reshape(-1, *frames.shape[2:]), self.config.image_size, device)
        return images.unflatten(0, frames.shape[:2])

    def _misplaced(self, codes: Tensor, truth: Any) -> Tensor:
        """Mean over frames of the summed squared distances of the first codes from true positions, where those are known."""
        places = torch.as_tensor(truth, dtype=torch.float32, device=codes.device)
        if places.shape[2] > self.config.num_keypoints:
            raise UsageError(
                f"supervision by {places.shape[2]} points needs as many keypoints; got {self.config.num_keypoints}"
            )
        named = codes.unflatten(-1, (-1, 3))[..., : places.shape[2], :2]
        known = ~places.isnan()
        away = torch.where(known, named - places.nan_to_num(), 0).square()
        return away.sum(dim=(2, 3)).mean()


class KeypointCode(FrameCode):
    """K keypoints (x, y, μ): the place where a map lies, and how strong it is."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__(config)
        self.reader = FrameReader(config)
        self.regressor = nn.Conv2d(config.filters[-1], config.num_keypoints, 1)
        self.painter = FramePainter(config, 2 * config.num_keypoints + config.filters[-1])

    def score(self, images: Tensor) -> Tensor:
        """Maps (N, K, M, M) in float32 of images (N, 3, S, S) in [0, 1], before they become distributions over cells."""
        maps: Tensor = self.regressor(self.reader(images)).float()
        return maps

    def log_probabilities(self, maps: Tensor) -> Tensor:
        """The logarithms of the distributions over cells whose means are the keypoints (Eq. S1, S2): (N, K, M, M)."""
        if self.config.location == "softmax":
            return (maps * self.config.sharpness).flatten(2).log_softmax(dim=-1).view(maps.shape)
        lit = nn.functional.softplus(maps) + 1e-6
        return lit.log() - lit.sum(dim=(-2, -1), keepdim=True).log()

    def read(self, images: Tensor) -> Tensor:
        """As of `FrameCode`; a triplet for each keypoint, one after the other (Eq. S1 to S3)."""
        maps = self.score(images)
        if self.config.location == "mean":
            maps = nn.functional.softplus(maps)
            xy, scale = map_expectation(maps), mean_intensity(maps)
        else:
            xy, scale = joint_expectation(maps * self.config.sharpness), maps.amax(dim=(-2, -1)).sigmoid()
        return torch.cat([xy, scale.unsqueeze(-1)], dim=-1).flatten(1)

    def maps(self, codes: Tensor) -> Tensor:
        """As of `FrameCode`; a Gaussian for each keypoint (Eq. S4)."""
        return _blobs(codes, self.config)

    def extra_losses(self, codes: Tensor) -> dict[str, Tensor]:
        """Separation and sparsity."""
        triplets, losses = codes.unflatten(-1, (-1, 3)), {}
        if self.config.separation:
            alike = separation_loss(triplets[..., :2], self.config.separation_std).mean()
            losses["separation"] = self.config.separation * alike
        if self.config.sparsity:
            losses["sparsity"] = self.config.sparsity * sparsity_loss(triplets[..., 2]).mean()
        return losses


class VectorCode(FrameCode):
    """3K numbers without structure, from and to dense layers: the code of CNN-VRNN (section 5.1)."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__(config)
        self.reader = FrameReader(config)
        cells = config.filters[-1] * config.map_size**2
        self.narrow = nn.Linear(cells, config.size)
        self.widen = nn.Linear(config.size, cells)
        self.painter = FramePainter(config, 3 * config.filters[-1])

    def read(self, images: Tensor) -> Tensor:
        """As of `FrameCode`."""
        codes: Tensor = self.narrow(self.reader(images).flatten(1)).float()
        return codes

    def maps(self, codes: Tensor) -> Tensor:
        """As of `FrameCode`."""
        size = self.config.map_size
        return nn.functional.leaky_relu(self.widen(codes), SLOPE).unflatten(-1, (-1, size, size))

    def extra_losses(self, codes: Tensor) -> dict[str, Tensor]:
        """None: separation and sparsity are losses of keypoints."""
        return {}


class PerceptionCode(FrameCode):
    """The keypoints of a perception model, which stays as it is; only what paints frames from them is learned.

    Args:
        config: of kind perception, with the K and the image size of the perception model.
        perception: any trained one; it is put into evaluation mode and gets no gradients.
    """

    def __init__(self, config: CodeConfig, perception: KeypointDetector) -> None:
        super().__init__(config)
        own = {"num_keypoints": config.num_keypoints, "image_size": config.image_size}
        for name, value in own.items():
            if getattr(perception, name) != value:
                raise UsageError(
                    f"{name} is {value}, and the perception model's {getattr(perception, name)}; make them equal"
                )
        self.perception = perception.requires_grad_(False).eval()
        self.painter = FramePainter(config, 2 * config.num_keypoints + config.filters[-1])

    def read(self, images: Tensor) -> Tensor:
        """As of `FrameCode`; presence stands for μ."""
        found = self.perception.encode(images.detach().mul(255).round().byte().permute(0, 2, 3, 1), features=False)
        return torch.cat([found.xy, found.presence.unsqueeze(-1)], dim=-1).flatten(1)

    def maps(self, codes: Tensor) -> Tensor:
        """As of `FrameCode`; a Gaussian for each keypoint (Eq. S4)."""
        return _blobs(codes, self.config)

    def extra_losses(self, codes: Tensor) -> dict[str, Tensor]:
        """None: the keypoints are what they are."""
        return {}

    def train(self, mode: bool = True) -> Self:
        """As of `torch.nn.Module`, but for the perception model, which does not learn."""
        super().train(mode)
        self.perception.eval()
        return self


def new_frame_code(config: CodeConfig, perception: KeypointDetector | None = None) -> FrameCode:
    """The code that a configuration describes, with new parameters.

    Args:
        config: its shape and losses.
        perception: the model whose keypoints are the code, where the configuration is of kind perception.

    Raises:
        UsageError: a perception model is missing, not wanted, or has another K or image size.
    """
    if (config.kind == "perception") != (perception is not None):
        raise UsageError("a perception model is for a code of kind perception, which needs one")
    if perception is not None:
        return PerceptionCode(config, perception)
    return KeypointCode(config) if config.kind == "keypoints" else VectorCode(config)


def _blobs(codes: Tensor, config: CodeConfig) -> Tensor:
    triplets = codes.unflatten(-1, (-1, 3))
    return scaled_gaussian_maps(triplets[..., :2], triplets[..., 2], config.map_size, config.map_size, config.blob_std)
