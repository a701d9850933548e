"""Conditional image generation against a NumPy computation of what RefineNet is shown."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from moving_square import SHAPE, lived_in, pairs
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.frames import fold_patches, unfold_patches
from kpagent.perception.conditional import ConditionalConfig

SMALL = ConditionalConfig(**SHAPE)


def slow_heatmaps(xy: np.ndarray, side: int, std: float) -> np.ndarray:
    """(K, 2) to (K, side, side): a Gaussian around each keypoint, cell by cell."""
    maps = np.zeros((len(xy), side, side))
    for k, (x, y) in enumerate(xy):
        for row in range(side):
            for column in range(side):
                across, down = (2 * column + 1) / side - 1 - x, (2 * row + 1) / side - 1 - y
                maps[k, row, column] = math.exp(-(across**2 + down**2) / (2 * std**2))
    return maps


def slow_expectation(logits: np.ndarray) -> np.ndarray:
    """(K, side, side) to (K, 2), under the softmax over all cells."""
    side = logits.shape[-1]
    found = np.zeros((len(logits), 2))
    for k, scores in enumerate(logits):
        share = np.exp(scores - scores.max())
        share /= share.sum()
        for row in range(side):
            for column in range(side):
                found[k] += share[row, column] * np.array([(2 * column + 1) / side - 1, (2 * row + 1) / side - 1])
    return found


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("without", [(), (0, 2)])
def test_the_loss_is_that_of_painting_from_stacked_maps(residual: bool, difference: bool, without: tuple[int, ...]) -> None:
    model = lived_in(dataclasses.replace(SMALL, residual=residual, difference=difference)).eval()
    batch = pairs(32, 3)
    model.set_background(batch["target"][:, ::-1])
    shown: list[Tensor] = []
    model.refine.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    source, target = (torch.from_numpy(batch[name]).permute(0, 3, 1, 2).float() / 255 for name in ("source", "target"))
    with torch.no_grad():
        image, xy = model.reconstruct(source, target, without=without)
        features = model.features(fold_patches(source, 2)).numpy()
        behind = torch.from_numpy(np.median(batch["target"][:, ::-1], axis=0) / 255).permute(2, 0, 1).float()
        logits = model.config.logit_scale * model.keynet(fold_patches(target - behind if difference else target, 2)).numpy()
        places = np.stack([slow_expectation(of_frame) for of_frame in logits])
        maps = np.stack([slow_heatmaps(of_frame, features.shape[-1], SMALL.heatmap_std) for of_frame in places])
        maps[:, list(without)] = 0
        stacked = torch.from_numpy(np.concatenate([features, maps], axis=1)).float()
        np.testing.assert_allclose(xy.numpy(), places, atol=1e-5)
        torch.testing.assert_close(shown[0], stacked, atol=1e-5, rtol=1e-4)
        expected = unfold_patches(model.refine(stacked), 2)
        if residual:
            expected = expected + behind
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-4)
        if not without:
            loss, _ = model.loss(batch)
            assert loss.item() == pytest.approx(float(((expected - target) ** 2).mean()), rel=1e-4)


def test_the_source_says_what_and_the_target_where() -> None:
    """Φ learns from the source, Ψ from the target alone."""
    model = lived_in(SMALL)
    source, target = torch.rand(2, 2, 3, 32, 32)
    source.requires_grad_()
    target.requires_grad_()
    model.reconstruct(source, target)[0].square().mean().backward()
    assert source.grad is not None
    assert target.grad is not None
    for side in (source, target):
        assert float(side.grad.abs().sum()) > 0
    for network in (model.features, model.keynet):
        assert sum(float(parameter.grad.abs().sum()) for parameter in network.parameters()) > 0
    seen: list[Any] = []
    for network in (model.features, model.keynet):
        network.register_forward_pre_hook(lambda module, inputs: seen.append((type(module), inputs[0])))
    with torch.no_grad():
        model.reconstruct(source, target)
    (_, to_features), (_, to_keynet) = seen
    assert torch.equal(to_features, fold_patches(source, 2))
    assert torch.equal(to_keynet, model.keynet_input(fold_patches(target, 2)))


def test_refine_net_differs_from_transporters_in_its_input_alone() -> None:
    from kpagent.perception.transporter import Transporter, TransporterConfig

    for preset in ("paper", "fast"):
        theirs = lived_in(getattr(ConditionalConfig, preset)(4, filters=(4,) * 4, strides=(1, 2, 1, 1), image_size=32))
        ours = Transporter(getattr(TransporterConfig, preset)(4, filters=(4,) * 4, strides=(1, 2, 1, 1), image_size=32))
        assert ours.refine is not None
        found = [module for module in theirs.refine.modules() if isinstance(module, nn.Conv2d)]
        expected = [module for module in ours.refine.modules() if isinstance(module, nn.Conv2d)]
        assert found[0].in_channels == expected[0].in_channels + 4
        assert list(map(str, found[1:])) == list(map(str, expected[1:]))


def test_a_configuration_that_cannot_be_is_refused() -> None:
    for changes, message in (
        ({"residual": 1}, "residual must be true or false"),
        ({"expectation": "channels"}, "expectation"),
    ):
        with pytest.raises(UsageError, match=message):
            ConditionalConfig(3, **changes)
