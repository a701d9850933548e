from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from moving_square import PROVENANCE, SHAPE, SMALL, frame, kind_of

from kpagent.errors import UsageError
from kpagent.perception.detector import DetectorConfig, KeypointDetector
from kpagent.perception.online import OnlineConfig, OnlineTrainer
from kpagent.perception.transporter import Transporter, TransporterConfig

SIZE = int(SHAPE["image_size"])


class Stream:
    """Frame pairs of a square that goes anywhere, over a floor that can change; it notes how many pairs are asked for.

    Attributes:
        asked: number of pairs, draw by draw.
        floor: brightness that is added to what lies behind the square.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.asked: list[int] = []
        self.floor = 0

    def __call__(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(count)
        place = self.generator.integers(SIZE - SIZE // 8, size=(2, count, 2)).tolist()
        source, target = (np.stack([frame(SIZE, x, y) for x, y in side]) for side in place)
        return source + np.uint8(self.floor), target + np.uint8(self.floor)

    def take(self) -> list[int]:
        """What was asked for since the last time."""
        asked, self.asked = self.asked, []
        return asked


def a_model(config: DetectorConfig = SMALL["transporter"], seed: int = 0) -> KeypointDetector:
    torch.manual_seed(seed)
    return kind_of(config)(config, PROVENANCE)


def quick(**changes: Any) -> OnlineConfig:
    settings: dict[str, Any] = {"batch_size": 4, "settle_steps": 100, "revive_every": 0}
    return OnlineConfig(**(settings | changes))


def parameters(model: KeypointDetector) -> dict[str, torch.Tensor]:
    return {name: part.detach().clone() for name, part in model.named_parameters()}


def test_the_loss_falls_and_a_keypoint_finds_what_moves() -> None:
    model = a_model(TransporterConfig(**SHAPE | {"num_keypoints": 1, "filters": (8, 16, 16)}))
    trainer = OnlineTrainer(model, OnlineConfig(batch_size=16, settle_steps=150, revive_every=50, learning_rate=3e-3))
    stream = Stream()
    losses = [float(trainer.step(stream)) for _ in range(150)]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    place = np.random.default_rng(1).integers(SIZE - SIZE // 8, size=(60, 2))
    seen = np.stack([frame(SIZE, x, y) for x, y in place.tolist()])
    found = model.encode(seen, features=False).xy[:, 0].numpy()
    centre = (2 * place + SIZE // 8) / SIZE - 1
    for axis in (0, 1):
        assert np.corrcoef(found[:, axis], centre[:, axis])[0, 1] > 0.9


def test_estimates_are_made_at_first_as_steps_double_and_every_two_thousand() -> None:
    trainer = OnlineTrainer(a_model(), quick(settle_steps=10_000))
    stream = Stream()
    for step, wanted in [(0, True), (1, False), (2, False), (32, True), (63, True), (64, True), (65, False)]:
        # At 32 and 63 only because nothing has been estimated yet.
        if step in (32, 63):
            trainer = OnlineTrainer(trainer.model, trainer.config)
        trainer.steps = step
        trainer.step(stream)
        assert stream.take() == ([400, 4] if wanted else [4])
    estimated = []
    for step in [*range(66, 130), 256, 300, 512, 1_024, 1_999, 2_000, 2_001, 2_048, 3_000, 4_000, 4_096, 6_000, 8_192]:
        trainer.steps = step
        trainer.step(stream)
        if 400 in stream.take():
            estimated.append(step)
    assert estimated == [128, 256, 512, 1_024, 2_000, 2_048, 4_000, 4_096, 6_000, 8_192]


def test_the_background_is_that_of_the_stream_of_the_moment() -> None:
    model = a_model(replace(SMALL["transporter"], difference=True))
    trainer = OnlineTrainer(model, quick())
    stream = Stream()
    floor = frame(SIZE, 0, 0)[-1, :, 2] / 255

    def blue() -> np.ndarray:
        assert model.background is not None
        row: np.ndarray = model.background[2, SIZE // 2].numpy()
        return row

    trainer.step(stream)
    np.testing.assert_allclose(blue(), floor, atol=1e-6)
    stream.floor = 40
    trainer.steps = 63
    trainer.step(stream)
    np.testing.assert_allclose(blue(), floor, atol=1e-6)
    trainer.step(stream)
    np.testing.assert_allclose(blue(), floor + 40 / 255, atol=1e-6)


def test_the_learning_rate_falls_by_half_a_cosine_and_stays_low() -> None:
    model = a_model()
    trainer = OnlineTrainer(model, quick(learning_rate=1e-3, late_rate=1e-4, settle_steps=100))
    middle = 1e-4 + 9e-4 / 2
    quarter = 1e-4 + 9e-4 * (1 + math.sqrt(0.5)) / 2
    stream = Stream()
    for step, rate in [(0, 1e-3), (25, quarter), (50, middle), (100, 1e-4), (101, 1e-4), (5_000, 1e-4)]:
        trainer.steps = step
        assert trainer.learning_rate() == pytest.approx(rate)
        trainer.step(stream)
        assert [group["lr"] for group in trainer.optimizer.param_groups] == [pytest.approx(rate)]
        assert trainer.steps == step + 1


def test_keypoints_are_revived_during_the_first_three_fifths_of_settling() -> None:
    trainer = OnlineTrainer(a_model(), quick(settle_steps=20, revive_every=4))
    stream = Stream()
    revived = []
    for step in range(1, 31):
        trainer.step(stream)
        # A batch four times as large, and no less than 64.
        if 64 in stream.take():
            revived.append(step)
    assert revived == [4, 8, 12]


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_one_seed_gives_one_result_for_every_method_whatever_else_draws(config: DetectorConfig) -> None:
    def outcome(seed: int, disturb: Callable[[], Any]) -> tuple[list[float], dict[str, torch.Tensor]]:
        trainer = OnlineTrainer(a_model(config), quick(revive_every=3))
        stream, losses = Stream(seed), []
        for _ in range(6):
            disturb()
            losses.append(float(trainer.step(stream)))
        return losses, parameters(trainer.model)

    one, same = outcome(0, lambda: None), outcome(0, lambda: torch.rand(3))
    assert one[0] == same[0]
    assert all(torch.equal(part, same[1][name]) for name, part in one[1].items())
    assert outcome(1, lambda: None)[0] != one[0]


def test_a_trainer_that_was_stored_and_taken_up_goes_on_as_the_first_one() -> None:
    one, other = (OnlineTrainer(a_model(seed=seed), quick(settle_steps=9)) for seed in (0, 1))
    stream = Stream()
    for _ in range(4):
        one.step(stream)
    other.model.load_state_dict({name: part.clone() for name, part in one.model.state_dict().items()})
    other.load_state_dict({name: part.clone() for name, part in one.state_dict().items()}, one.steps)
    for step in range(4, 9):
        first, same = (float(trainer.step(Stream(step))) for trainer in (one, other))
        assert first == same
        assert one.steps == other.steps == step + 1
    for name, part in other.model.state_dict().items():
        assert torch.equal(part, one.model.state_dict()[name])


def test_between_steps_the_model_encodes_with_the_weights_of_the_last_step() -> None:
    model = a_model()
    trainer = OnlineTrainer(model, quick(learning_rate=1e-2))
    stream = Stream()
    shown, _ = Stream(1)(5)
    for _ in range(3):
        trainer.step(stream)
        assert not model.training
        found = model.encode(shown, features=False).xy
        fresh = Transporter(model.config, PROVENANCE) if isinstance(model.config, TransporterConfig) else None
        assert fresh is not None
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(found, fresh.eval().encode(shown, features=False).xy)


def test_a_loss_that_is_not_finite_leaves_the_parameters_alone() -> None:
    model = a_model()
    trainer = OnlineTrainer(model, quick(tolerance=0.0))
    trainer.step(Stream())
    with torch.no_grad():
        next(model.keynet.parameters()).fill_(math.nan)
    before = parameters(model)
    with pytest.raises(FloatingPointError, match="a lower learning rate may help"):
        trainer.step(Stream())
    assert trainer.steps == 1
    for name, part in parameters(model).items():
        torch.testing.assert_close(part, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2; got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"settle_steps": 0}, "settle_steps must be at least 1; got 0"),
        ({"late_rate": -1.0}, "late_rate must be positive; got -1.0"),
        ({"balance": 1.5}, "balance must be from 0 to 1; got 1.5"),
        ({"tolerance": -1.0}, "tolerance must not be negative; got -1.0"),
        ({"revive_every": -1}, "revive_every must not be negative; got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OnlineConfig(**changes)
