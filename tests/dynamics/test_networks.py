from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import code_config, drawn
from torch import nn

from kpagent.dynamics.configuration import CodeConfig, StructVRNNConfig
from kpagent.dynamics.networks import FramePainter, FrameReader, squared_kernels


def slow_convolution(maps: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """(C, H, W) to (C', H', W'), one output at a time."""
    weight = layer.weight.detach().double().numpy()
    assert layer.bias is not None
    bias = layer.bias.detach().double().numpy()
    reach, stride = weight.shape[-1], layer.stride[0]
    padded = np.pad(maps, ((0, 0), (reach // 2, reach // 2), (reach // 2, reach // 2)))
    size = -(-maps.shape[-1] // stride)
    result = np.empty((len(weight), size, size))
    for channel, row, column in np.ndindex(result.shape):
        window = padded[:, row * stride : row * stride + reach, column * stride : column * stride + reach]
        result[channel, row, column] = (window * weight[channel]).sum() + bias[channel]
    return result


def slow_rectifier(maps: np.ndarray) -> np.ndarray:
    """f(x) = max(x, 0.2 x)."""
    return np.maximum(maps, 0.2 * maps)


def with_places(maps: np.ndarray) -> np.ndarray:
    """Two more channels, x and y of each cell's centre where the image goes from -1 to 1."""
    size = maps.shape[-1]
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(centres, centres)
    return np.concatenate([maps, x[None], y[None]])


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d)]


def images(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def test_the_reader_is_a_row_of_convolutions_and_rectifiers() -> None:
    reader = FrameReader(code_config(filters=(3, 4), extra_layers=1))
    seen = images(drawn(1, 2)[0])
    found = reader(seen)
    for index, image in enumerate(seen.double().numpy()):
        maps = with_places(image - 0.5)
        for layer, stride in zip(convolutions(reader), (1, 1, 2, 1), strict=True):
            assert layer.stride == (stride, stride)
            maps = slow_rectifier(slow_convolution(maps, layer))
        np.testing.assert_allclose(found[index].detach(), maps, rtol=1e-4, atol=1e-5)


def test_the_painter_widens_maps_twofold_between_scales() -> None:
    painter = FramePainter(code_config(filters=(3, 4), extra_layers=0), inputs=2)
    maps = torch.randn(2, 2, 8, 8)
    found = painter(maps)
    first, second, last = convolutions(painter)
    for index in range(2):
        read = slow_rectifier(slow_convolution(with_places(maps[index].double().numpy()), first))
        wide = np.stack([slow_upsampling(channel) for channel in read])
        painted = slow_convolution(slow_rectifier(slow_convolution(wide, second)), last)
        np.testing.assert_allclose(found[index].detach(), painted, rtol=1e-4, atol=1e-5)


def slow_upsampling(channel: np.ndarray) -> np.ndarray:
    """Twofold and bilinear: a new centre lies a quarter of a cell from one of the old, three quarters from the next."""
    size = len(channel)
    wide = np.empty((2 * size, 2 * size))
    for row, column in np.ndindex(wide.shape):
        y, x = (np.clip((at + 0.5) / 2 - 0.5, 0, size - 1) for at in (row, column))
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size - 1), min(left + 1, size - 1)
        upper = channel[top, left] * (1 - (x - left)) + channel[top, right] * (x - left)
        lower = channel[bottom, left] * (1 - (x - left)) + channel[bottom, right] * (x - left)
        wide[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return wide


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_blocks_of_pixels_come_and_go_as_channels(patch: int) -> None:
    config = code_config(patch=patch, filters=(4,))
    assert FrameReader(config)(torch.zeros(2, 3, 16, 16)).shape == (2, 4, 16 // patch, 16 // patch)
    assert FramePainter(config, inputs=5)(torch.zeros(2, 5, 16 // patch, 16 // patch)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("config", "strides"),
    [
        (StructVRNNConfig.basketball().code, [1, 1, 2, 1, 2, 1]),
        (StructVRNNConfig.human36m().code, [1, 1, 1, 2, 1, 1, 2, 1, 1]),
        (StructVRNNConfig.fast().code, [1, 1, 2, 1]),
    ],
    ids=["basketball", "human36m", "fast"],
)
def test_presets_have_the_layers_of_the_paper(config: CodeConfig, strides: list[int]) -> None:
    reader = FrameReader(config)
    assert [layer.stride[0] for layer in convolutions(reader)] == strides
    with torch.no_grad():
        assert reader(torch.zeros(1, 3, 64, 64)).shape == (1, config.filters[-1], 16, 16)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in reader.modules())
    assert norms == (len(strides) if config.normalization == "batch" else 0)


def test_kernels_start_within_the_bounds_of_he_for_a_leaky_rectifier() -> None:
    for layer in convolutions(FrameReader(StructVRNNConfig.fast().code)):
        fan_in = layer.in_channels * 9
        limit = (6 / ((1 + 0.2**2) * fan_in)) ** 0.5
        assert 0.95 * limit < layer.weight.abs().max().item() <= limit
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("changes", [{}, {"normalization": "batch"}], ids=["plain", "batch"])
def test_squared_kernels_are_those_of_convolutions_alone(changes: dict[str, Any]) -> None:
    network = nn.Sequential(FrameReader(code_config(**changes)), nn.Linear(3, 3))
    expected = sum(
        (value.detach().double().numpy() ** 2).sum() for name, value in network.named_parameters() if value.ndim == 4
    )
    assert squared_kernels(network).item() == pytest.approx(expected, rel=1e-5)


def test_equal_things_look_different_in_different_places() -> None:
    maps = FrameReader(code_config())(torch.full((1, 3, 16, 16), 0.5))
    inside = maps[0, :, 2:-2, 2:-2].flatten(1)
    assert (inside.std(dim=1) > 1e-4).any()
