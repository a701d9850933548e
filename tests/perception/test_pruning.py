"""Dropping keypoints against trying all ways to drop them, on models whose keypoints are worth different amounts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from moving_square import lived_in
from torch import Tensor

from kpagent.perception.conditional import ConditionalConfig
from kpagent.perception.pruning import least_missed, prune, reconstruction_loss
from kpagent.perception.transporter import Transporter, TransporterConfig

SHAPE: dict[str, Any] = {"num_keypoints": 4, "image_size": 16, "filters": (4, 8), "strides": (1, 1)}
CONFIGS = [TransporterConfig(**SHAPE), ConditionalConfig(**SHAPE)]


def some_pairs(count: int, seed: int = 0) -> dict[str, Any]:
    frames = np.random.default_rng(seed).integers(0, 256, (2, count, 16, 16, 3), dtype=np.uint8)
    return {"source": frames[0], "target": frames[1], "weight": torch.rand(16, 16)}


def slow_loss(model: Any, batch: dict[str, Any], without: tuple[int, ...]) -> float:
    """Pair by pair."""
    losses = []
    for source, target in zip(batch["source"], batch["target"], strict=True):
        images = [torch.from_numpy(frame / 255.0).float().permute(2, 0, 1)[None] for frame in (source, target)]
        with torch.no_grad():
            painted = model.reconstruct(*images, without=without)[0]
        losses.append(float((((painted - images[1]) ** 2).mean(dim=1) * batch["weight"]).mean()))
    return float(np.mean(losses))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_without_keypoints_is_that_of_each_pair_alone(config: Any) -> None:
    model, batch = lived_in(config).eval(), some_pairs(7)
    for without in ((), (1,), (0, 3)):
        found = reconstruction_loss(model, batch, without, chunk=3)
        assert found == pytest.approx(slow_loss(model, batch, without), rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_keypoints_are_dropped_one_by_one_each_the_least_missed(config: Any, keep: int) -> None:
    model, batch = lived_in(config).eval(), some_pairs(6)
    dropped: tuple[int, ...] = ()
    for _ in range(4 - keep):
        losses = {k: slow_loss(model, batch, (*dropped, k)) for k in range(4) if k not in dropped}
        dropped += (min(losses, key=lambda k: losses[k]),)
    model.train()
    assert least_missed(model, batch, 4 - keep) == dropped
    pruned = prune(model, batch, keep)
    assert pruned.num_keypoints == keep
    assert reconstruction_loss(pruned, batch, ()) == pytest.approx(slow_loss(model, batch, dropped), rel=1e-4)


class Additive(Transporter):
    """A Transporter without which keypoint a frame is off by a known amount."""

    worth = (0.3, 0.05, 0.2, 0.1)

    def reconstruct(self, source: Tensor, target: Tensor, *, without: Any = ()) -> tuple[Tensor, Tensor]:
        missing = sum(self.worth[k] for k in without)
        return target + missing, torch.zeros(len(target), 4, 2)


def test_what_is_dropped_is_the_best_choice_of_all_where_worths_add_up() -> None:
    model, batch = Additive(TransporterConfig(**SHAPE)), some_pairs(5)
    for count in range(1, 4):
        every = itertools.combinations(range(4), count)
        best = min(every, key=lambda without: reconstruction_loss(model, batch, without))
        assert set(least_missed(model, batch, count)) == set(best)
    assert least_missed(model, batch, 3) == (1, 3, 2)
    assert least_missed(model, batch, 0) == ()
    assert np.isclose(reconstruction_loss(model, batch, (0,)), 0.09 * float(batch["weight"].mean()))


def test_pruning_leaves_the_model_as_it_was() -> None:
    model, batch = lived_in(CONFIGS[1]), some_pairs(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, batch, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
