"""I3D on RGB with Kinetics' 400 classes (Carreira and Zisserman 2017), under the names of the port piergiaj/pytorch-i3d.

Inception-v1 with filters and pools that reach over time. Padding is TensorFlow's "SAME", which depends on the input's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SIDE = 224
CLASSES = 400
SMALLEST_LENGTH = 9

# Widths of a mixed block: of its 1 × 1 × 1 branch, of two branches with a bottleneck, and behind the pool.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around (N, C, T, H, W), such that a window of `kernel` at `stride` fits ceil(size / stride) times."""
    padding: list[int] = []
    for size, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding += [total // 2, total - total // 2]
    return nn.functional.pad(x, padding)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU; or a plain convolution with a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, plain: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W'), sizes divided by the stride, rounding up."""
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else self.bn(x).relu()


class Pool(nn.Module):
    """Maximum over windows; inputs are not negative, so zeros around them change nothing."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, T', H', W'), sizes divided by the stride, rounding up."""
        return nn.functional.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side, their channels joined."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0], 1)
        self.b1a = Unit(inputs, widths[1], 1)
        self.b1b = Unit(widths[1], widths[2], 3)
        self.b2a = Unit(inputs, widths[3], 1)
        self.b2b = Unit(widths[3], widths[4], 3)
        self.b3a = Pool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to the same with other channels."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(nn.Module):
    """The RGB stream of I3D."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("Conv3d_1a_7x7", Unit(3, 64, 7, stride=2))
        self.add_module("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        self.add_module("Conv3d_2b_1x1", Unit(64, 64, 1))
        self.add_module("Conv3d_2c_3x3", Unit(64, 192, 3))
        self.add_module("MaxPool3d_3a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        channels = 192
        for name, widths in MIXED.items():
            if name == "Mixed_4b":
                self.add_module("MaxPool3d_4a_3x3", Pool((3, 3, 3), (2, 2, 2)))
            if name == "Mixed_5b":
                self.add_module("MaxPool3d_5a_2x2", Pool((2, 2, 2), (2, 2, 2)))
            self.add_module(name, Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Unit(channels, CLASSES, 1, plain=True)

    def forward(self, videos: Tensor) -> Tensor:
        """Logits of the classes, averaged over time.

        Args:
            videos: (N, 3, T, 224, 224) RGB in [-1, 1], T of 9 or more.

        Returns:
            (N, 400).
        """
        x = videos
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        x = nn.functional.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).mean(dim=(2, 3, 4))
