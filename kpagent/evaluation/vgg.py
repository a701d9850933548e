"""VGG-16 (Simonyan and Zisserman 2015) without its classifier, under torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALLEST_SIDE = 16

# Of ImageNet's RGB values in [0, 1]: what the weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class VGG16(nn.Module):
    """The 13 convolutions of VGG-16, each with a ReLU; a maximum over 2 × 2 between blocks."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in BLOCKS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """What leaves the last ReLU of each of the five blocks: conv1_2, conv2_2, conv3_3, conv4_3 and conv5_3.

        Args:
            images: (N, 3, H, W) RGB in [0, 1], H and W of 16 or more.

        Returns:
            (N, C, H', W') for C of 64, 128, 256, 512, 512; the size is halved, rounding down, from block to block.
        """
        x = (images - images.new_tensor(MEAN)[:, None, None]) / images.new_tensor(STD)[:, None, None]
        found = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
                if len(found) == len(BLOCKS):
                    break
            x = layer(x)
        return found


def cosine_similarity(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Cosine between the two images' features at each place (0 where one has none), averaged over places, then layers.

    Args:
        first: features of `VGG16`, (N, C, H, W) each.
        second: the same of N other images.

    Returns:
        (N,) in [0, 1], since features are not negative.
    """
    layers = [nn.functional.cosine_similarity(a, b, dim=1).mean(dim=(1, 2)) for a, b in zip(first, second, strict=True)]
    return torch.stack(layers).mean(dim=0)
