"""Models by the name of their method, fresh and from files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from moving_square import SMALL, assert_same_keypoints, lived_in, pairs

from kpagent.errors import UsageError
from kpagent.perception.detector import DetectorConfig
from kpagent.perception.methods import METHODS, load_for_training, method_of, new_detector
from kpagent.perception.transporter import Transporter


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_a_model_in_both_presets(method: str) -> None:
    for preset, size in (("fast", 80 if method == "zhang" else 84), ("paper", 80 if method == "zhang" else 128)):
        model = new_detector(method, 3, preset=preset, filters=(4, 4), strides=(1, 2))
        assert method_of(model) == method
        assert (model.num_keypoints, model.image_size) == (3, size)
        assert model.training
        loss, metrics = model.loss(pairs(32, 2))
        assert bool(loss.isfinite())
        assert "l2" in metrics


def test_pixels_is_a_transporter_that_moves_pixels() -> None:
    model = new_detector("pixels", 3)
    assert isinstance(model, Transporter)
    assert model.config.transport == "pixels"
    ours = new_detector("transporter", 3)
    assert isinstance(ours, Transporter)
    assert ours.config.transport == "features"


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_a_function_of_the_seed(method: str) -> None:
    first, again, other = (new_detector(method, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^no method 'sift'; there are transporter, jakab, zhang, pixels$"):
        new_detector("sift", 3)
    with pytest.raises(UsageError, match="num_keypoints must be a whole number from 1 to 256; got 0"):
        new_detector("jakab", 0)


@pytest.mark.parametrize("method", ["jakab", "zhang"])
def test_a_field_that_a_method_has_not_is_refused(tmp_path: Path, method: str) -> None:
    with pytest.raises(UsageError, match=rf"^the method {method} has no align$"):
        new_detector(method, 3, align=True)
    lived_in(SMALL[method]).save(tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match=rf"^the method {method} has no align$"):
        load_for_training(tmp_path / "weights.safetensors", align=True)


@pytest.mark.parametrize("inference_only", [False, True])
@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_training_may_go_on_with_a_difference(tmp_path: Path, config: DetectorConfig, inference_only: bool) -> None:
    path = tmp_path / "weights.safetensors"
    lived_in(config).save(path, inference_only=inference_only)
    found = load_for_training(path, difference=True)
    assert found.config == dataclasses.replace(config, difference=True)
    assert found.background is not None
    found.loss(pairs(32, 2))[0].backward()


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_whole_weights_go_on_as_they_were(tmp_path: Path, config: DetectorConfig) -> None:
    model = lived_in(config)
    model.save(tmp_path / "weights.safetensors")
    found = load_for_training(tmp_path / "weights.safetensors", seed=5)
    assert found.training
    assert found.config == config
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_inference_only_weights_go_on_from_their_encoders(tmp_path: Path, config: DetectorConfig) -> None:
    path, frames = tmp_path / "weights.safetensors", pairs(32, 3)["target"]
    model = lived_in(config)
    model.save(path, inference_only=True)
    found, again, other = (load_for_training(path, seed=seed) for seed in (5, 5, 6))
    assert found.training
    assert not found.inference_only
    assert found.provenance == model.provenance
    assert_same_keypoints(found.encode(frames), model.encode(frames))
    state, twin, sibling = found.state_dict(), again.state_dict(), other.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, twin[name]) for name, value in state.items())
    fresh = {name.split(".")[0] for name, value in state.items() if not torch.equal(value, sibling[name])}
    assert "refine" in fresh
    assert not fresh & {"features", "keynet"}
    loss, _ = found.loss(pairs(32, 2))
    loss.backward()
    found.save(tmp_path / "whole.safetensors")
    assert not load_for_training(tmp_path / "whole.safetensors").inference_only
