"""What detectors make of backgrounds: told from the frame (`difference`), moved along (`align`), mixed (`mix`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kpagent.errors import UsageError
from kpagent.perception.conditional import ConditionalConfig, ConditionalGenerator
from kpagent.perception.methods import load_detector, load_for_training
from kpagent.perception.pretraining import PairBatches, PretrainingConfig
from kpagent.perception.transporter import Transporter, TransporterConfig
from kpagent.training import TrainingConfig


def frames(count: int, seed: int = 0, highest: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest, (count, 84, 84, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "model",
    [Transporter(TransporterConfig(3, difference=True)), ConditionalGenerator(ConditionalConfig(3, difference=True))],
)
def test_only_what_differs_from_the_median_is_seen(model: Transporter, tmp_path: Path) -> None:
    model.eval()
    usual, seen = frames(5), frames(4, seed=1)
    model.set_background(usual)
    assert model.background is not None
    np.testing.assert_allclose(model.background.permute(1, 2, 0), np.median(usual, axis=0) / 255, atol=1e-6)
    here = model.encode(seen).xy
    # Fifty levels brighter, background and all: nothing has changed.
    model.set_background(usual + 50)
    torch.testing.assert_close(model.encode(seen + 50).xy, here, rtol=0, atol=1e-4)
    assert not torch.allclose(model.encode(seen).xy, here, atol=1e-4)
    # The background belongs to what inference needs.
    model.save(tmp_path / "small.safetensors", inference_only=True)
    again = load_detector(tmp_path / "small.safetensors")
    torch.testing.assert_close(again.encode(seen).xy, model.encode(seen).xy, rtol=0, atol=1e-6)


def test_without_it_the_background_is_not_seen() -> None:
    model = Transporter(TransporterConfig(3)).eval()
    before = model.encode(frames(2)).xy
    model.set_background(frames(5, seed=2))
    torch.testing.assert_close(model.encode(frames(2)).xy, before)


def test_an_aligned_source_needs_no_keypoints_for_what_slides() -> None:
    smooth = torch.nn.functional.avg_pool2d(torch.rand(4, 3, 84, 84, generator=torch.Generator().manual_seed(0)), 9, 1, 4)
    smooth = (smooth - smooth.mean()) * 3 + 0.5
    slid = smooth.roll((6, -9), (-2, -1))
    error = {}
    for align in (False, True):
        torch.manual_seed(0)
        model = Transporter(TransporterConfig(1, align=align)).eval()
        # RefineNet adds nothing at the start, so without its keypoint the picture is the source as it was moved.
        with torch.no_grad():
            image, _ = model.reconstruct(smooth, slid, without=[0])
        error[align] = float((image - slid).square().mean())
    assert error[True] < 0.01 * error[False]


def test_weights_go_on_with_another_option_but_not_with_another_network(tmp_path: Path) -> None:
    Transporter(TransporterConfig(2)).save(tmp_path / "weights.safetensors", inference_only=True)
    model = load_for_training(tmp_path / "weights.safetensors", align=True)
    assert isinstance(model, Transporter)
    assert model.config == TransporterConfig(2, align=True)
    ConditionalGenerator(ConditionalConfig(2)).save(tmp_path / "jakab.safetensors")
    with pytest.raises(UsageError, match="jakab has no align"):
        load_for_training(tmp_path / "jakab.safetensors", align=True)


class Numbered:
    """Pairs whose frames are their number."""

    def __init__(self, count: int) -> None:
        numbers = np.arange(count, dtype=np.uint8)[:, None, None, None]
        self.source = self.target = np.broadcast_to(numbers, (count, 16, 16, 3))


def numbers(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return batch["source"][:, 0, 0, 0], batch["target"][:, 0, 0, 0]


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_share_of_the_sources_is_of_other_pairs(mix: float) -> None:
    config = PretrainingConfig(training=TrainingConfig(steps=3, batch_size=100), mix=mix, held_out=20, balance=0.0)
    batches = PairBatches(Numbered(200), config, 16)
    source, target = numbers(batches(0))
    # One in 180 is its own pair by chance.
    assert abs((source != target).mean() - mix * 179 / 180) < 0.15
    assert max(source.max(), target.max()) < 180
    for one, same in zip(numbers(batches(1)), numbers(PairBatches(Numbered(200), config, 16)(1)), strict=True):
        np.testing.assert_array_equal(one, same)
    source, target = numbers(batches.held_out())
    np.testing.assert_array_equal(target, np.arange(180, 200))
    assert source.min() >= 180
    assert (source == target).all() == (mix == 0)


def test_a_mix_beyond_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match="mix must be from 0 to 1"):
        PretrainingConfig(mix=1.5)
