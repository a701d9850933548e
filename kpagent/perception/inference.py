"""Networks made ready for inference: each batch normalisation folded into the convolution before it."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kpagent.perception.networks import ConvBlock


def fold(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose `ConvBlock`s have no batch normalisation left; its outputs are the same.

    Other normalisations need the statistics of the frame at hand and stay.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for block in [module for module in folded.modules() if isinstance(module, ConvBlock)]:
        convolution, normalization, _ = block
        if isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(convolution, normalization)
            block[1] = nn.Identity()
    return folded
