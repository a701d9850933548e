"""The landmark autoencoder: each loss and the decoder's input against slow NumPy computations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from moving_square import SHAPE, lived_in, pairs
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.frames import fold_patches
from kpagent.perception.landmarks import (
    LandmarkConfig,
    concentration_loss,
    equivariance_loss,
    moments,
    separation_loss,
)
from kpagent.perception.warping import draw_warp

SMALL = LandmarkConfig(**SHAPE)


def centre(i: int, side: int) -> float:
    return (2 * i + 1) / side - 1


def slow_detections(logits: np.ndarray) -> np.ndarray:
    """(K + 1, H, W) to (K, H, W): softmax over the maps at each cell, then each map divided by its sum."""
    _, height, width = logits.shape
    shares = np.zeros(logits.shape)
    for row, column in itertools.product(range(height), range(width)):
        powers = [math.exp(score) for score in logits[:, row, column]]
        shares[:, row, column] = np.array(powers) / math.fsum(powers)
    return np.stack([share / share.sum() for share in shares[:-1]])


def slow_moments(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (K, 2) of (K, H, W)."""
    cells = list(itertools.product(range(maps.shape[1]), range(maps.shape[2])))
    mean, variance = np.zeros((len(maps), 2)), np.zeros((len(maps), 2))
    for k, chances in enumerate(maps):
        for row, column in cells:
            mean[k] += chances[row, column] * np.array([centre(column, maps.shape[2]), centre(row, maps.shape[1])])
        for row, column in cells:
            offset = np.array([centre(column, maps.shape[2]), centre(row, maps.shape[1])]) - mean[k]
            variance[k] += chances[row, column] * offset**2
    return mean, variance


def test_detections_and_their_moments() -> None:
    model = lived_in(SMALL)
    logits = 3 * torch.randn(2, 4, 5, 6)
    maps = model.detections(logits)
    xy, variance = moments(maps)
    for i in range(2):
        expected = slow_detections(logits[i].numpy().astype(np.float64))
        np.testing.assert_allclose(maps[i].numpy(), expected, rtol=1e-4, atol=1e-6)
        mean, spread = slow_moments(expected)
        np.testing.assert_allclose(xy[i].numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance[i].numpy(), spread, rtol=1e-4, atol=1e-5)


def test_detections_survive_logits_that_leave_nothing_to_the_landmarks() -> None:
    model = lived_in(SMALL)
    logits = torch.zeros(1, 4, 5, 5)
    logits[:, 3] = 300
    logits[0, 0, 2, 1] = 10
    maps = model.detections(logits)
    assert bool(maps.isfinite().all())
    torch.testing.assert_close(maps.sum(dim=(-2, -1)), torch.ones(1, 3))
    assert float(maps[0, 0, 2, 1]) > 0.99


def test_concentration_by_hand() -> None:
    variance = torch.rand(4, 3, 2)
    expected = 0.0
    for of_frame in variance.numpy():
        for across, down in of_frame / 4:
            expected += 2 * math.pi * math.e * (across + down) ** 2 / 4
    assert float(concentration_loss(variance)) == pytest.approx(expected, rel=1e-5)


def test_separation_by_hand() -> None:
    xy = 0.4 * torch.rand(4, 3, 2)
    expected = 0.0
    for of_frame in xy.numpy() / 2:
        for a, b in itertools.permutations(range(3), 2):
            expected += math.exp(-np.sum((of_frame[a] - of_frame[b]) ** 2) / (2 * 0.08**2)) / 4
    assert float(separation_loss(xy, 0.08)) == pytest.approx(expected, rel=1e-4)
    assert float(separation_loss(torch.tensor([[[-0.9, 0.0], [0.9, 0.0]]]), 0.08)) == pytest.approx(0, abs=1e-6)
    assert float(separation_loss(torch.zeros(2, 5, 2), 0.08)) == pytest.approx(20)


def test_equivariance_by_hand() -> None:
    returned, xy = torch.rand(2, 4, 3, 2)
    expected = sum(np.sum((a - b) ** 2) for a, b in zip(returned.numpy(), xy.numpy(), strict=True)) / 4
    assert float(equivariance_loss(returned, xy)) == pytest.approx(expected, rel=1e-5)


def slow_layout(model: Any, features: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(D, S, S) and (K, 2) to (K + 1 + D, S, S): shares of landmarks and background, and descriptors laid out in them."""
    dim, side, _ = features.shape
    shorten, widen = (parameter.detach().numpy() for parameter in (model.descriptors.shorten, model.descriptors.widen))
    std = model.config.heatmap_std
    near = np.ones((len(xy) + 1, side, side))
    for k, (x, y) in enumerate(xy):
        for row, column in itertools.product(range(side), repeat=2):
            squared = (centre(column, side) - x) ** 2 + (centre(row, side) - y) ** 2
            near[k, row, column] = math.exp(-squared / (2 * std**2))
    layout = np.zeros((len(near) + dim, side, side))
    described = []
    for k, weights in enumerate(near):
        pooled = sum(
            weights[row, column] * features[:, row, column] for row, column in itertools.product(range(side), repeat=2)
        )
        described.append(np.maximum(pooled / weights.sum() @ shorten[k] @ widen[k], 0))
    # On the square from -1 to 1, of area 4, the uniform density is a quarter.
    density = near.copy()
    density[:-1] *= 1 / (2 * math.pi * std**2) / 0.25
    for row, column in itertools.product(range(side), repeat=2):
        share = density[:, row, column] / density[:, row, column].sum()
        layout[: len(near), row, column] = share
        layout[len(near) :, row, column] = sum(part * of_one for part, of_one in zip(share, described, strict=True))
    return layout


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_loss_is_that_of_a_slow_computation(residual: bool, difference: bool) -> None:
    config = LandmarkConfig(
        **SHAPE, residual=residual, difference=difference, concentration=0.7, separation=0.3, equivariance=2.0
    )
    model = lived_in(config).eval()
    batch: dict[str, Any] = pairs(32, 3) | {"seed": (4, 2), "weight": torch.rand(32, 32)}
    model.set_background(batch["source"])
    shown: list[Tensor] = []
    model.refine.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    with torch.no_grad():
        loss, metrics = model.loss(batch)
        frames = torch.from_numpy(batch["target"]).permute(0, 3, 1, 2).float() / 255
        warp = draw_warp((4, 2), 3, bend=0.1, rotation=10.0, scaling=1.25, shift=0.3)
        places, spreads = [], []
        shown_to_keynet = frames - model.background if difference else frames
        for images in (shown_to_keynet, warp.images(shown_to_keynet)):
            logits = model.keynet(fold_patches(images, 2)).double().numpy()
            found = [slow_moments(slow_detections(of_frame)) for of_frame in logits]
            places.append(torch.from_numpy(np.stack([mean for mean, _ in found])).float())
            spreads.append(torch.from_numpy(np.stack([variance for _, variance in found])).float())
        features = model.features(fold_patches(frames, 2)).numpy()
        layout = np.stack([slow_layout(model, f, xy) for f, xy in zip(features, places[0].numpy(), strict=True)])
        np.testing.assert_allclose(shown[0].numpy(), layout, rtol=1e-3, atol=1e-4)
        painted = model._paint(torch.from_numpy(layout).float())
        expected = {
            "l2": float(((painted - frames) ** 2).mean()),
            "concentration": float(concentration_loss(torch.cat(spreads))),
            "separation": float(separation_loss(torch.cat(places), 0.08)),
            "equivariance": float(equivariance_loss(warp(places[1]), places[0])),
        }
        pixels = float((((painted - frames) ** 2).mean(dim=1) * batch["weight"]).mean())
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-3)
    total = pixels + 0.7 * expected["concentration"] + 0.3 * expected["separation"] + 2 * expected["equivariance"]
    assert float(loss) == pytest.approx(total, rel=1e-3)


def test_the_loss_is_a_function_of_the_seed_and_looks_at_targets_alone() -> None:
    model = lived_in(SMALL).eval()
    batch: dict[str, Any] = pairs(32, 3)
    with torch.no_grad():
        losses = [float(model.loss(batch | {"seed": seed})[0]) for seed in ((0, 1), (0, 1), (0, 2))]
        alone = float(model.loss({"target": batch["target"], "seed": (0, 1)})[0])
    assert losses[0] == losses[1] == alone
    assert losses[0] != losses[2]


def test_equivariance_draws_landmarks_of_a_warped_frame_to_where_they_went() -> None:
    """A few steps on that loss alone bring it down."""
    torch.manual_seed(0)
    config = LandmarkConfig(**SHAPE, concentration=0.0, separation=0.0, equivariance=1.0)
    model = lived_in(config)
    optimizer = torch.optim.Adam(model.keynet.parameters(), 1e-2)
    found = []
    for step in range(40):
        _, metrics = model.loss(pairs(32, 4) | {"seed": (step,)})
        loss, _ = model.loss(pairs(32, 4) | {"seed": (0,)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(metrics["equivariance"]))
    assert np.mean(found[-5:]) < np.mean(found[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expectation": "joint"}, "expectation must be channels; got 'joint'"),
        ({"residual": "yes"}, "residual must be true or false"),
        ({"descriptor": 0}, "descriptor must be from 1 to 1024"),
        ({"concentration": -1.0}, "concentration must be at least 0"),
        ({"separation": math.nan}, "separation must be at least 0"),
        ({"equivariance": "much"}, "equivariance must be at least 0"),
        ({"separation_std": 0.0}, "separation_std must be positive"),
        ({"scaling": 0}, "scaling must be positive"),
        ({"bend": -0.1}, "bend must be at least 0"),
        ({"image_size": 81}, "patch must be at least 1 and divide image_size"),
    ],
)
def test_configurations_that_cannot_be_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        LandmarkConfig(3, **changes)
    assert "\n" not in str(refusal.value)


def test_the_released_weights_are_beside_a_mean_of_squares() -> None:
    """100, 20 and 10,000 beside half a sum of squares over 80×80 pixels of three colours."""
    config = LandmarkConfig.paper(10)
    values = 3 * 80 * 80
    for name, released in (("concentration", 100), ("separation", 20), ("equivariance", 10_000)):
        assert getattr(config, name) * values / 2 == pytest.approx(released)
    assert (config.descriptor, config.separation_std, config.bend, config.rotation) == (8, 0.08, 0.1, 10)
