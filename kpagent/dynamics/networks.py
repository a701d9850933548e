"""The convolutional networks of Struct-VRNN: what reads a frame, and what paints one (Struct-VRNN S1.1.1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from kpagent.dynamics.configuration import CodeConfig
from kpagent.frames import fold_patches, unfold_patches
from kpagent.keypoints import cell_centres

SLOPE = 0.2
"""Of the leaky rectifier."""


class FrameReader(nn.Sequential):
    """Images to feature maps, halved at each scale but the first: (N, 3, S, S) to (N, filters[-1], M, M).

    Coordinates of the places are two more channels of its input: equal things can look different in different places.
    """

    def __init__(self, config: CodeConfig) -> None:
        self.patch = config.patch
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise([3 * config.patch**2 + 2, *config.filters])):
            layers += _layer(config, inputs, outputs, stride=1 if index == 0 else 2)
            for _ in range(config.extra_layers):
                layers += _layer(config, outputs, outputs)
        super().__init__(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Read images in [0, 1]."""
        features: Tensor = super().forward(add_coordinates(fold_patches(images, self.patch) - 0.5))
        return features


class FramePainter(nn.Sequential):
    """The reverse of a `FrameReader`, with bilinear upsampling: (N, inputs, M, M) to (N, 3, S, S)."""

    def __init__(self, config: CodeConfig, inputs: int) -> None:
        self.patch = config.patch
        filters = config.filters[::-1]
        layers: list[nn.Module] = []
        for index, (before, outputs) in enumerate(pairwise([inputs + 2, *filters])):
            if index > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            layers += _layer(config, before, outputs)
            for _ in range(config.extra_layers):
                layers += _layer(config, outputs, outputs)
        last = nn.Conv2d(filters[-1], 3 * config.patch**2, 3, padding=1)
        # Small, but not zero, so that keypoints matter from the first step on.
        nn.init.kaiming_uniform_(last.weight, a=SLOPE, nonlinearity="leaky_relu")
        with torch.no_grad():
            last.weight.mul_(0.3)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        super().__init__(*layers, last)

    def forward(self, maps: Tensor) -> Tensor:
        """Paint from maps."""
        return unfold_patches(super().forward(add_coordinates(maps)), self.patch)


def add_coordinates(maps: Tensor) -> Tensor:
    """The maps (N, C, H, W) with the coordinates x and y of their places as two more channels."""
    count, _, height, width = maps.shape
    x = cell_centres(width, device=maps.device, dtype=maps.dtype).expand(count, 1, height, width)
    y = cell_centres(height, device=maps.device, dtype=maps.dtype)[:, None].expand(count, 1, height, width)
    return torch.cat([maps, x, y], dim=1).contiguous(memory_format=torch.channels_last)


def squared_kernels(module: nn.Module) -> Tensor:
    """Sum of the squares of all convolution kernels that a module trains, which weight decay makes small."""
    kernels = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d) and part.weight.requires_grad]
    return torch.stack([kernel.float().square().sum() for kernel in kernels]).sum()


def _layer(config: CodeConfig, inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    nn.init.kaiming_uniform_(convolution.weight, a=SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    between = [nn.BatchNorm2d(outputs)] if config.normalization == "batch" else []
    return [convolution, *between, nn.LeakyReLU(SLOPE, inplace=True)]
