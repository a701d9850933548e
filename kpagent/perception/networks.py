"""The convolutional networks of Transporter: feature extractor Φ, KeyNet Ψ and RefineNet (Transporter Appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

NORMALIZATIONS = ("batch", "instance", "layer")


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, ReLU; the size is divided by the stride, rounding up."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, normalization: str) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            normalization_layer(normalization, outputs),
            nn.ReLU(inplace=True),
        )

    @property
    def convolution(self) -> nn.Conv2d:
        """The first layer."""
        layer = self[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    @property
    def normalization(self) -> nn.Module:
        """The second layer."""
        return self[1]


def normalization_layer(name: str, channels: int) -> nn.Module:
    """The normalisation called `name`, one of `NORMALIZATIONS`, over `channels`, with a learned scale and shift.

    Layer normalisation is over channels and places together, which is group normalisation with a single group.

    Raises:
        ValueError: no such normalisation.
    """
    match name:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "layer":
            return nn.GroupNorm(1, channels)
    raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, not {name!r}")


class Encoder(nn.Sequential):
    """A stack of `ConvBlock`: Φ, and the trunk of Ψ. (N, C, H, W) to (N, filters[-1], H', W')."""

    def __init__(self, channels: int, filters: Sequence[int], strides: Sequence[int], first_kernel: int, normalization: str):
        kernels = [first_kernel] + [3] * (len(filters) - 1)
        widths = pairwise([channels, *filters])
        super().__init__(
            *(ConvBlock(i, o, k, s, normalization) for (i, o), k, s in zip(widths, kernels, strides, strict=True))
        )


class KeyNet(nn.Sequential):
    """Ψ without the expectation: an `Encoder` and a 1×1 regressor to K maps. (N, C, H, W) to (N, K, H', W')."""

    def __init__(self, encoder: Encoder, filters: int, num_keypoints: int) -> None:
        super().__init__(encoder, nn.Conv2d(filters, num_keypoints, 1))

    @property
    def trunk(self) -> nn.Module:
        """All but the regressor."""
        return self[0]

    @property
    def regressor(self) -> nn.Conv2d:
        """The 1×1 convolution, one output for each keypoint."""
        layer = self[1]
        assert isinstance(layer, nn.Conv2d)
        return layer


class RefineNet(nn.Module):
    """The transpose of an `Encoder`, with ×2 bilinear upsampling where that one strides. (N, D, H', W') to (N, C, H, W)."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        size: int,
        filters: Sequence[int],
        strides: Sequence[int],
        first_kernel: int,
        normalization: str,
    ) -> None:
        super().__init__()
        sizes = [size]
        for stride in strides:
            sizes.append(-(-sizes[-1] // stride))
        layers: list[nn.Module] = []
        for i in reversed(range(len(filters))):
            width = inputs if i == len(filters) - 1 else filters[i]
            if i > 0:
                layers.append(ConvBlock(width, filters[i - 1], 3, 1, normalization))
            if sizes[i] != sizes[i + 1]:
                layers.append(nn.Upsample(size=(sizes[i], sizes[i]), mode="bilinear", align_corners=False))
        layers.append(nn.Conv2d(filters[0], channels, first_kernel, padding=first_kernel // 2))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Reconstruct the image from transported features."""
        image: Tensor = self.layers(features)
        return image
