"""What holds of every detector: itself saved, folded, pickled and split into other batches, and frames that are none."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_square import PROVENANCE, SHAPE, SMALL, assert_same_keypoints, frame, kind_of, lived_in, pairs
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.frames import fold_patches
from kpagent.perception.conditional import ConditionalConfig
from kpagent.perception.detector import DetectorConfig, KeypointDetector
from kpagent.perception.inference import fold
from kpagent.perception.landmarks import LandmarkConfig
from kpagent.perception.methods import KINDS, load_detector
from kpagent.perception.reconstructor import Reconstructor
from kpagent.perception.transporter import Transporter, TransporterConfig

EVERY_KIND = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)


def test_every_kind_is_here_and_knows_its_name() -> None:
    assert SMALL.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        assert kind.kind == name
        assert kind.config_type is type(SMALL[name])


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_presets_have_the_same_networks(preset: str) -> None:
    """The comparison is about the method: nothing but the image size of zhang, which its paper fixes, is another."""
    ours = getattr(TransporterConfig, preset)(5)
    for theirs in (getattr(kind, preset)(5) for kind in (ConditionalConfig, LandmarkConfig)):
        same = ("patch", "filters", "strides", "first_kernel", "normalization", "heatmap_std", "residual", "difference")
        for name in same:
            assert getattr(theirs, name) == getattr(ours, name), name
    jakab = getattr(ConditionalConfig, preset)(5)
    for name in ("image_size", "expectation", "logit_scale"):
        assert getattr(jakab, name) == getattr(ours, name), name
    assert getattr(LandmarkConfig, preset)(5).image_size == 80


@pytest.mark.parametrize("name", ["jakab", "zhang"])
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_encoders_are_those_of_transporter(name: str, preset: str) -> None:
    ours = Transporter(getattr(TransporterConfig, preset)(5))
    theirs = KINDS[name](getattr(KINDS[name].config_type, preset)(5))
    assert str(theirs.features) == str(ours.features)
    assert str(theirs.keynet.trunk) == str(ours.keynet.trunk)
    assert theirs.keynet.regressor.out_channels == (6 if name == "zhang" else 5)


@EVERY_KIND
def test_one_batch_can_be_learned_by_heart(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_keypoints": 2, "image_size": 16, "filters": (8, 16), "strides": (1, 1)}
    model = kind_of(config)(type(config)(**shape))
    batch = pairs(16, 2)
    model.set_background(batch["target"])
    still = float(np.mean((batch["source"] / 255.0 - batch["target"] / 255.0) ** 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        loss, metrics = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["l2"].item() < 0.03 * still


@EVERY_KIND
def test_every_parameter_learns_and_the_source_is_left_alone(config: DetectorConfig) -> None:
    model = lived_in(config)
    loss, metrics = model.loss(pairs(32, 3))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert "l2" in metrics
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", ["transporter", "jakab"])
def test_the_loss_is_the_squared_error_of_the_reconstruction(name: str) -> None:
    model = lived_in(SMALL[name]).eval()
    assert isinstance(model, Reconstructor)
    batch = pairs(32, 3)
    with torch.no_grad():
        loss, metrics = model.loss(batch)
        source, target = (torch.from_numpy(batch[name] / 255.0).float().permute(0, 3, 1, 2) for name in ("source", "target"))
        squared = (model.reconstruct(source, target)[0] - target) ** 2
        torch.testing.assert_close(loss, squared.mean())
        torch.testing.assert_close(metrics["l2"], squared.mean())

        weight = torch.rand(32, 32)
        loss, metrics = model.loss(batch | {"weight": weight})
        torch.testing.assert_close(loss, (squared * weight).mean())
        torch.testing.assert_close(metrics["l2"], squared.mean())

        of_pair = (squared * weight).mean(dim=(1, 2, 3))
        loss, metrics = model.loss(batch | {"weight": weight, "tolerance": 0.02})
        torch.testing.assert_close(loss, (0.02 * (1 + of_pair / 0.02).log()).mean())
        torch.testing.assert_close(metrics["l2"], squared.mean())


@pytest.mark.parametrize("normalization", ["batch", "instance", "layer"])
def test_folding_changes_no_output(normalization: str) -> None:
    model = lived_in(TransporterConfig.fast(3, image_size=32, normalization=normalization))
    images = torch.rand(2, 12, 16, 16)
    for network in (model.keynet, model.features):
        folded = fold(network)
        with torch.no_grad():
            torch.testing.assert_close(folded(images), network.eval()(images), atol=1e-5, rtol=1e-4)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


LARGER = [TransporterConfig.fast(4), TransporterConfig.paper(4, filters=(4, 4, 8, 8, 16, 16)), LandmarkConfig.fast(4)]


@pytest.mark.parametrize("config", [*SMALL.values(), *LARGER])
def test_a_frame_has_the_same_keypoints_in_every_batch(config: DetectorConfig) -> None:
    model = lived_in(config)
    frames = np.random.default_rng(0).integers(0, 256, (5, 210, 160, 3), dtype=np.uint8)
    together = model.encode(frames)
    assert together.xy.shape == (5, config.num_keypoints, 2)
    assert together.features.shape == (5, config.num_keypoints, config.filters[-1])
    assert (model.num_keypoints, model.feature_dim, model.image_size) == (
        config.num_keypoints,
        config.filters[-1],
        config.image_size,
    )
    assert bool((together.presence == 1).all())
    assert bool((together.xy.abs() < 1).all())
    assert not together.xy.requires_grad
    for i in range(5):
        assert_same_keypoints(model.encode(frames[i : i + 1]), together[i : i + 1], 1e-3)
    assert_same_keypoints(model.encode(frames[::-1]), together[[4, 3, 2, 1, 0]], 1e-3)
    assert_same_keypoints(model.encode(torch.from_numpy(frames)), together)
    bare = model.encode(frames, features=False)
    assert torch.equal(bare.xy, together.xy)
    assert bare.features.shape == (5, config.num_keypoints, 0)


@EVERY_KIND
def test_encoding_follows_the_weights_and_leaves_them(config: DetectorConfig) -> None:
    model, other, frames = kind_of(config)(config), lived_in(config), pairs(32, 3)["source"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    in_training = model.encode(frames)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert_same_keypoints(model.encode(frames), in_training)
    model.load_state_dict(other.state_dict())
    assert_same_keypoints(model.encode(frames), other.encode(frames))

    model.train()
    model.encode(frames)
    with torch.no_grad():
        next(model.keynet.parameters()).mul_(-1)
    assert not torch.equal(model.encode(frames).xy, other.encode(frames).xy)


@pytest.mark.parametrize("inference_only", [False, True])
@pytest.mark.parametrize(
    "config", [*SMALL.values(), *(kind.config_type.paper(2, image_size=32, filters=(4,) * 6) for kind in KINDS.values())]
)
def test_a_saved_model_comes_back(tmp_path: Path, config: DetectorConfig, inference_only: bool) -> None:
    model, frames, path = lived_in(config), pairs(40, 3)["target"], tmp_path / "weights.safetensors"
    model.save(path, inference_only=inference_only)
    loaded = type(model).load(path)
    assert loaded.config == config
    assert loaded.provenance == PROVENANCE
    assert loaded.inference_only == inference_only
    assert not loaded.training
    assert_same_keypoints(loaded.encode(frames), model.encode(frames))
    if not inference_only:
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())

    again = tmp_path / "again.safetensors"
    loaded.save(again)
    by_header = load_detector(again)
    assert type(by_header) is type(model)
    assert_same_keypoints(by_header.encode(frames), model.encode(frames))


@pytest.mark.parametrize("difference", [False, True])
@EVERY_KIND
def test_inference_only_weights_hold_no_more_and_refuse_to_train(
    tmp_path: Path, config: DetectorConfig, difference: bool
) -> None:
    lived_in(dataclasses.replace(config, difference=difference)).save(tmp_path / "weights.safetensors", inference_only=True)
    tensors, header = load_tensors(tmp_path / "weights.safetensors")
    expected = {"features", "keynet", "background"} if difference else {"features", "keynet"}
    assert {name.split(".")[0] for name in tensors} == expected
    assert header["inference_only"] is True
    with pytest.raises(UsageError, match="kpagent pretrain"):
        load_detector(tmp_path / "weights.safetensors").loss(pairs(32, 1))


@EVERY_KIND
def test_weights_are_not_taken_for_those_of_another_kind(tmp_path: Path, config: DetectorConfig) -> None:
    path, own = tmp_path / "weights.safetensors", kind_of(config)
    own(config).save(path)
    assert load_tensors(path)[1]["model"] == own.kind
    for other in KINDS.values():
        if other is not own:
            with pytest.raises(UsageError, match=rf"^{path} holds a '{own.kind}', not a {other.kind}$"):
                other.load(path)


Break = Callable[[dict[str, Tensor], dict[str, Any]], object]
BROKEN: dict[str, tuple[Break, str]] = {
    "model": (lambda tensors, header: header.update(model="struct_vrnn"), "holds a 'struct_vrnn', not "),
    "no model": (lambda tensors, header: header.clear(), "holds a None, not "),
    "format": (lambda tensors, header: header.update(format=99), "has format 99; this kpagent reads format 1"),
    "no config": (lambda tensors, header: header.update(config=None), "has no valid configuration"),
    "config list": (lambda tensors, header: header.update(config=[1]), "has no valid configuration"),
    "field": (lambda tensors, header: header["config"].update(colour="red"), "has no valid configuration"),
    "no field": (lambda tensors, header: header["config"].pop("num_keypoints"), "has no valid configuration"),
    "filters": (lambda tensors, header: header["config"].update(filters=7), "has no valid configuration"),
    "value": (lambda tensors, header: header["config"].update(strides=[1, 3, 1]), "strides must be 1 or 2"),
    "provenance": (lambda tensors, header: header.update(provenance="here"), "has no valid configuration"),
    "other K": (lambda tensors, header: header["config"].update(num_keypoints=4), "does not fit its configuration: "),
    "image size": (lambda tensors, header: header["config"].update(image_size=31), "patch must .*divide image_size"),
    "missing": (lambda tensors, header: tensors.pop("keynet.1.bias"), r"keynet.1.bias is None, not \([34],\)"),
    "extra": (lambda tensors, header: tensors.update(more=torch.ones(2)), r"more is \(2,\) torch.float32, not None"),
    "not inference": (lambda tensors, header: header.update(inference_only=True), "does not fit its configuration: "),
    "nan": (lambda tensors, header: tensors["keynet.1.bias"][:1].fill_(torch.nan), "not finite numbers"),
    "infinite": (lambda tensors, header: tensors["keynet.1.bias"][:1].fill_(torch.inf), "not finite numbers"),
}


@EVERY_KIND
@pytest.mark.parametrize("name", BROKEN)
def test_weights_that_are_no_model_are_refused_in_one_line(tmp_path: Path, name: str, config: DetectorConfig) -> None:
    path, kind = tmp_path / "weights.safetensors", kind_of(config)
    kind(config).save(path)
    tensors, header = load_tensors(path)
    damage, message = BROKEN[name]
    damage(tensors, header)
    save_tensors(path, tensors, header)
    for load in (kind.load, load_detector):
        with pytest.raises(UsageError, match=message) as refusal:
            load(path)
        assert "\n" not in str(refusal.value)
        assert str(path) in str(refusal.value)


@EVERY_KIND
def test_a_pickled_or_copied_model_gives_the_same_keypoints(config: DetectorConfig) -> None:
    model, frames = lived_in(config).eval(), pairs(32, 3)["source"]
    expected = model.encode(frames)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301 (our own bytes)
        assert_same_keypoints(other.encode(frames), expected)


@EVERY_KIND
@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), TypeError, "must be uint8 arrays, not float32"),
        (torch.zeros(2, 32, 32, 3), TypeError, "must be uint8 arrays, not float32"),
        ([[0]], TypeError, "must be uint8 arrays, not list"),
        (np.zeros((32, 32, 3), np.uint8), ValueError, "must be a batch"),
        (np.zeros((2, 2, 32, 32, 3), np.uint8), ValueError, "must be a batch"),
        (np.zeros((2, 32, 32), np.uint8), ValueError, "must be RGB"),
        (np.zeros((2, 32, 32, 4), np.uint8), ValueError, "must be RGB"),
        (np.zeros((2, 3, 32, 32), np.uint8), ValueError, "must be RGB"),
        (np.zeros((2, 0, 32, 3), np.uint8), ValueError, "must be RGB"),
    ],
)
def test_frames_that_are_none_are_refused(config: DetectorConfig, frames: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind_of(config)(config).encode(frames)


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@EVERY_KIND
def test_the_background_is_what_most_frames_show(config: DetectorConfig, residual: bool, difference: bool) -> None:
    make: Any = type(config)
    model: Any = kind_of(config)(make(**SHAPE, residual=residual, difference=difference))
    frames = np.stack([frame(32, 3 * i, 8) for i in range(7)])
    model.set_background(frames)
    if residual or difference:
        expected = torch.from_numpy(np.median(frames, axis=0)).permute(2, 0, 1).float() / 255
        assert torch.equal(model.background, expected)
    else:
        assert model.background is None


@EVERY_KIND
def test_the_keynet_sees_what_is_not_background(config: DetectorConfig) -> None:
    model, frames = lived_in(dataclasses.replace(config, difference=True)).eval(), pairs(32, 4)["target"]
    model.set_background(frames[:3, ::-1])
    cells = fold_patches(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, 2)
    behind = fold_patches(torch.from_numpy(np.median(frames[:3, ::-1], axis=0)).permute(2, 0, 1)[None].float() / 255, 2)
    with torch.no_grad():
        expected = model._expect(model.keynet(cells - behind))
    torch.testing.assert_close(model.encode(frames).xy, expected, atol=1e-4, rtol=0)
    other = kind_of(config)(dataclasses.replace(config, difference=False)).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(other.encode(frames).xy, model._expect(model.keynet(cells)), atol=1e-4, rtol=0)


@EVERY_KIND
def test_weights_from_before_there_was_a_difference_were_trained_without(tmp_path: Path, config: DetectorConfig) -> None:
    path, frames = tmp_path / "weights.safetensors", pairs(32, 3)["target"]
    model = lived_in(dataclasses.replace(config, difference=False))
    model.save(path, inference_only=True)
    tensors, header = load_tensors(path)
    assert "background" not in tensors
    assert header["config"].pop("difference") is False
    save_tensors(path, tensors, header)
    loaded = load_detector(path)
    assert loaded.config.difference is False
    assert_same_keypoints(loaded.encode(frames), model.encode(frames))


@pytest.mark.parametrize("name", ["transporter", "jakab"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_selection_paints_what_the_whole_paints_without_the_others(name: str, residual: bool) -> None:
    make: Any = type(SMALL[name])
    model = lived_in(make(**SHAPE, residual=residual)).eval()
    model.set_background(pairs(32, 5)["source"])
    source, target = torch.rand(2, 4, 3, 32, 32)
    with torch.no_grad():
        for kept in ([0, 1, 2], [0, 2], [1]):
            part = model.select(kept)
            assert (type(part), part.num_keypoints, part.provenance) == (type(model), len(kept), PROVENANCE)
            expected, xy = model.reconstruct(source, target, without=[k for k in range(3) if k not in kept])
            found, found_xy = part.reconstruct(source, target)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(found_xy, xy[:, kept])
        turned = model.select([2, 0])
        frames = pairs(32, 3)["target"]
        torch.testing.assert_close(turned.encode(frames).xy, model.encode(frames).xy[:, [2, 0]])
        assert not torch.allclose(model.reconstruct(source, target)[0], model.reconstruct(source, target, without=[1])[0])


def test_a_selection_of_inference_only_weights_encodes(tmp_path: Path) -> None:
    frames = pairs(32, 3)["target"]
    for name in ("transporter", "jakab"):
        model = lived_in(SMALL[name])
        model.save(tmp_path / "weights.safetensors", inference_only=True)
        loaded = load_detector(tmp_path / "weights.safetensors")
        assert isinstance(loaded, Reconstructor)
        part = loaded.select([1])
        assert part.inference_only
        torch.testing.assert_close(part.encode(frames).xy, model.encode(frames).xy[:, [1]])


def test_a_method_without_a_loss_is_none() -> None:
    class Bare(KeypointDetector):
        kind = "bare"
        config_type = DetectorConfig

    bare: Any = Bare
    with pytest.raises(TypeError, match="abstract"):
        bare(DetectorConfig(**SHAPE))
