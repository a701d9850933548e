"""Networks made ready for inference: normalisation folded into convolutions, and those packed for the CPU at hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kpagent.perception.networks import ConvBlock


def fold(network: nn.Module) -> nn.Module:
    """A copy for inference whose `ConvBlock`s have no batch normalisation left; its outputs are the same.

    Other normalisations need the statistics of the frame at hand and stay.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvBlock) and isinstance(child.normalization, nn.BatchNorm2d):
                convolution = fuse_conv_bn_eval(child.convolution, child.normalization)
                plain = nn.Sequential(convolution, nn.ReLU(inplace=True))
                setattr(parent, name, PackedConvolution(convolution, "relu") if _packs(convolution) else plain)
            elif isinstance(child, nn.Conv2d) and not isinstance(parent, ConvBlock) and _packs(child):
                setattr(parent, name, PackedConvolution(child, "none"))
    return folded


class PackedConvolution(nn.Module):
    """A float32 convolution, and the ReLU after it, as one call of oneDNN on weights laid out for it once.

    For a single small frame, laying them out at every call costs as much as the convolution itself. The operator is the one
    that torch's own compiler emits.
    """

    def __init__(self, convolution: nn.Conv2d, then: str) -> None:
        super().__init__()
        sizes = (convolution.padding, convolution.stride, convolution.dilation)
        self.shape: list[Any] = [*map(list, sizes), convolution.groups]
        self.then = then
        self.bias = convolution.bias
        packed = convolution.weight.detach().contiguous().to_mkldnn()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(packed, *self.shape)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 to (N, C', H', W')."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, *self.shape, self.then, [], ""
        )
        return result


def _packs(convolution: nn.Conv2d) -> bool:
    weight = convolution.weight
    built = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    return built and torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype == torch.float32
