from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import SIZE, config, drawn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.frame_code import PerceptionCode
from kpagent.dynamics.struct_vrnn import FORMAT, StructVRNN, to_keypoints
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.perception.transporter import Transporter, TransporterConfig

PROVENANCE = {"source": "basketball", "steps": 100, "figures": {"error": 0.05}}
BATCH: dict[str, Any] = {"frames": drawn(2, 5), "progress": 0.5, "seed": 0}


def normalised(**dynamics: Any) -> StructVRNN:
    """With batch normalisation that has seen frames, in evaluation mode."""
    model = StructVRNN(config({"normalization": "batch", "location": "softmax"}, **dynamics), PROVENANCE)
    model.loss(BATCH | {"actions": np.zeros((2, 5, model.config.dynamics.actions), np.float32)})
    return model.eval()


def state_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["keypoints", "vector"])
def test_the_loss_is_that_of_codes_and_that_of_dynamics(kind: str) -> None:
    model = StructVRNN(config({"kind": kind}))
    loss, metrics = model.loss(BATCH)
    images, of_images, codes = model.code.loss_and_codes(BATCH)
    in_time, of_time = model.dynamics.loss({"codes": codes, "progress": 0.5, "seed": 0})
    assert loss.item() == pytest.approx((images + in_time).item(), rel=1e-6)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {name: value.item() for name, value in (of_images | of_time).items()}
    )
    losses = {"keypoints": {"separation", "sparsity"}, "vector": set()}[kind]
    assert set(metrics) == {"image", "weight_decay", "l2", "observed", "predicted", "kl"} | losses


@pytest.mark.parametrize("kind", ["keypoints", "vector"])
def test_errors_of_the_dynamics_do_not_reach_the_code(kind: str) -> None:
    model = StructVRNN(config({"kind": kind}))
    model.loss(BATCH)[0].backward()
    together = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    loss, _, codes = model.code.loss_and_codes(BATCH)
    loss.backward()
    for name, value in model.code.named_parameters():
        assert value.grad is not None, name
        torch.testing.assert_close(together[f"code.{name}"], value.grad)
    model.zero_grad()
    model.dynamics.loss({"codes": codes, "progress": 0.5, "seed": 0})[0].backward()
    assert all(value.grad is None for value in model.code.parameters())
    for name, value in model.dynamics.named_parameters():
        assert value.grad is not None, name
        torch.testing.assert_close(together[f"dynamics.{name}"], value.grad)


def test_a_sequence_is_encoded_frame_by_frame() -> None:
    model = normalised()
    frames = drawn(3, 4)
    codes = model.encode_sequence(frames)
    assert codes.shape == (3, 4, 9)
    for b, t in np.ndindex(3, 4):
        torch.testing.assert_close(codes[b, t], model.encode_sequence(frames[b : b + 1, t : t + 1])[0, 0])
    assert torch.equal(model.encode_sequence(torch.from_numpy(frames)), codes)


def test_many_frames_are_encoded_and_painted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = normalised(), drawn(3, 7)
    codes = model.encode_sequence(frames)
    painted = model.render(frames[:, 0], codes)
    monkeypatch.setattr("kpagent.dynamics.struct_vrnn.CHUNK", 5)
    torch.testing.assert_close(model.encode_sequence(frames), codes)
    np.testing.assert_allclose(model.render(frames[:, 0], codes).astype(int), painted.astype(int), atol=1)


def test_encoding_and_painting_do_not_disturb_a_training() -> None:
    model = normalised().train()
    before = state_of(model)
    frames = drawn(3, 4)
    codes = model.encode_sequence(frames)
    painted = model.render(frames[:, 0], codes)
    assert model.training
    assert all(part.training for part in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    assert torch.equal(codes, model.encode_sequence(frames))
    np.testing.assert_array_equal(painted, model.render(frames[:, 0], codes))


def test_keypoints_are_triplets_with_a_share_of_the_largest_scale() -> None:
    model = normalised()
    frames = drawn(1, 6)[0]
    found = model.encode(frames)
    triplets = model.encode_sequence(frames[None])[0].view(6, 3, 3)
    assert (found.num_keypoints, found.feature_dim) == (model.num_keypoints, model.feature_dim) == (3, 0)
    assert torch.equal(found.xy, triplets[..., :2])
    torch.testing.assert_close(found.presence, triplets[..., 2] / triplets[..., 2].amax(dim=1, keepdim=True))
    assert found.xy.abs().max() <= 1
    assert model.image_size == SIZE
    assert model.encode(drawn(1, 2, size=40)[0]).xy.shape == (2, 3, 2)


def test_predicted_scales_below_nothing_are_absent() -> None:
    codes = torch.tensor([[[0.1, 0.2, 0.5], [0.3, 0.4, -1.0]], [[0, 0, -1.0], [0, 0, 0]]]).flatten(1)
    assert to_keypoints(codes).presence.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), TypeError),
        (np.zeros((2, 16, 16, 4), np.uint8), ValueError),
        (np.zeros((16, 16, 3), np.uint8), ValueError),
    ],
)
def test_what_is_no_batch_of_frames_is_refused(frames: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        StructVRNN(config()).encode(frames)


def test_a_vector_has_no_keypoints() -> None:
    model = StructVRNN(config({"kind": "vector"}))
    assert model.encode_sequence(drawn(2, 3)).shape == (2, 3, 9)
    with pytest.raises(UsageError, match="it has no keypoints"):
        model.encode(drawn(1, 2)[0])


def test_frames_and_codes_and_arrays_and_tensors_are_observed_alike() -> None:
    model = normalised(actions=2)
    frames, actions = drawn(2, 4), np.random.default_rng(0).normal(size=(2, 4, 2))
    belief, decoded = model.observe(frames, actions)
    assert decoded.shape == (2, 4, 9)
    codes = model.encode_sequence(frames)
    for given_codes in (codes, codes.numpy()):
        other, again = model.observe(given_codes, torch.from_numpy(actions))
        assert torch.equal(again, decoded)
        assert torch.equal(other.hidden, belief.hidden)
    futures = model.imagine(belief, 3, samples=2, actions=actions[:, :3])
    assert futures.shape == (2, 2, 3, 9)
    assert torch.equal(futures, model.imagine(belief, 3, samples=2, actions=torch.from_numpy(actions[:, :3]).float()))


def test_frames_are_painted_as_bytes() -> None:
    model = normalised()
    frames = drawn(2, 4)
    codes = model.encode_sequence(frames)
    found = model.render(frames[:, 0], codes)
    assert found.shape == (2, 4, SIZE, SIZE, 3)
    assert found.dtype == np.uint8
    images = model.code.to_images(frames)
    with torch.no_grad():
        expected = 255 * model.code.paint(images[:, 0], codes[:, 0], codes).permute(0, 1, 3, 4, 2).clamp(0, 1)
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert model.render(drawn(2, 1, size=40)[:, 0], codes).shape == (2, 4, SIZE, SIZE, 3)
    for value in list(model.code.painter.parameters())[-2:]:
        torch.nn.init.zeros_(value)
    np.testing.assert_array_equal(model.render(frames[:, 0], codes), np.repeat(frames[:, :1], 4, axis=1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    normalised(actions=2).save(path)
    return path


def test_what_is_saved_is_loaded(saved: Path, tmp_path: Path) -> None:
    model = StructVRNN.load(saved)
    assert model.config == config({"normalization": "batch", "location": "softmax"}, actions=2)
    assert model.provenance == PROVENANCE
    assert not model.training
    assert all(value.requires_grad and value.device.type == "cpu" for value in model.parameters())
    model.save(tmp_path / "again.safetensors")
    tensors, header = load_tensors(saved)
    again, header_again = load_tensors(tmp_path / "again.safetensors")
    assert header == header_again
    assert set(tensors) == set(again) == set(model.state_dict())
    for name, value in tensors.items():
        assert torch.equal(value, again[name])
    other = StructVRNN.load(tmp_path / "again.safetensors")
    actions = torch.zeros(2, 5, 2)
    assert torch.equal(model.encode_sequence(BATCH["frames"]), other.encode_sequence(BATCH["frames"]))
    assert torch.equal(model.observe(BATCH["frames"], actions)[1], other.observe(BATCH["frames"], actions)[1])


def test_what_is_loaded_can_be_trained_and_copied(saved: Path) -> None:
    model = StructVRNN.load(saved).train()
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    batch = BATCH | {"actions": np.zeros((2, 5, 2), np.float32)}
    before = model.loss(batch)[0]
    before.backward()
    optimiser.step()
    assert model.loss(batch)[0].item() < before.item()
    frames, model = BATCH["frames"], model.eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 (our own bytes)
        assert torch.equal(other.encode_sequence(frames), model.encode_sequence(frames))


def _drop(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    del tensors["dynamics.prior.0.weight"]


def _add(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    tensors["another"] = torch.zeros(3)


def _reshape(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    tensors["dynamics.decode_out.bias"] = torch.zeros(7)


def _retype(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    tensors["dynamics.decode_out.bias"] = tensors["dynamics.decode_out.bias"].long()


def _spoil(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    tensors["dynamics.decode_out.bias"][2] = math.nan


def _spoil_statistics(tensors: dict[str, Any], header: dict[str, Any]) -> None:
    tensors["code.reader.1.running_var"][0] = math.inf


def _with(part: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        header["config"][part] |= values

    return change


def _header(**values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        header |= values

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], None], str]] = {
    "a tensor less": (_drop, "does not fit its configuration: dynamics.prior.0.weight is None, not "),
    "a tensor more": (_add, "does not fit its configuration: another is "),
    "another shape": (_reshape, r"dynamics.decode_out.bias is \(7,\) torch.float32, not \(9,\) torch.float32"),
    "another type": (_retype, r"dynamics.decode_out.bias is \(9,\) torch.int64, not \(9,\) torch.float32"),
    "NaN": (_spoil, "holds weights that are not finite numbers"),
    "infinity in statistics": (_spoil_statistics, "holds weights that are not finite numbers"),
    "another size": (_with("dynamics", rnn_units=7), "does not fit its configuration"),
    "a huge size": (_with("dynamics", rnn_units=10**7), "does not fit its configuration"),
    "a word for a number": (_with("code", num_keypoints="three"), "num_keypoints must be a whole number; got 'three'"),
    "a fraction": (_with("dynamics", latent=2.5), "latent must be a whole number; got 2.5"),
    "an unknown field": (_with("code", flavour=1), "no valid configuration: .*flavour"),
    "an impossible value": (_with("code", blob_std=-1.0), "no valid configuration: blob_std must be positive"),
    "no configuration": (_header(config=None), "no valid configuration"),
    "half a configuration": (_header(config={"code": {}}), "no valid configuration"),
    "a list for a configuration": (_header(config=[]), "no valid configuration"),
    "another model": (_header(model="transporter"), "holds a 'transporter', not a struct_vrnn"),
    "no model": (_header(model=None), "holds a None, not a struct_vrnn"),
    "a later format": (_header(format=FORMAT + 1), f"has format {FORMAT + 1}; this kpagent reads format {FORMAT}"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_fit_is_refused(name: str, saved: Path, tmp_path: Path) -> None:
    tensors, header = load_tensors(saved)
    damage, message = BROKEN[name]
    damage(tensors, header)
    path = tmp_path / "broken.safetensors"
    save_tensors(path, tensors, header)
    with pytest.raises(UsageError, match=message) as refusal:
        StructVRNN.load(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def on_transporter() -> StructVRNN:
    perception = Transporter(
        TransporterConfig(num_keypoints=2, image_size=16, filters=(4, 4), strides=(1, 2)), {"of": "game"}
    )
    return StructVRNN.on(perception, config())


@pytest.mark.parametrize("inference_only", [False, True])
def test_a_model_on_a_perception_model_is_saved_with_it(inference_only: bool, tmp_path: Path) -> None:
    model = on_transporter()
    model.loss(BATCH)
    model.eval()
    assert isinstance(model.code, PerceptionCode)
    if inference_only:
        model.code.perception.drop_training_only()
    model.save(tmp_path / "model.safetensors")
    other = StructVRNN.load(tmp_path / "model.safetensors")
    assert isinstance(other.code, PerceptionCode)
    assert other.config == model.config
    assert other.code.perception.provenance == {"of": "game"}
    assert other.code.perception.inference_only == inference_only
    codes = model.encode_sequence(BATCH["frames"])
    assert torch.equal(codes, other.encode_sequence(BATCH["frames"]))
    assert np.array_equal(model.render(BATCH["frames"][:, 0], codes), other.render(BATCH["frames"][:, 0], codes))
    assert torch.equal(model.observe(codes)[1], other.observe(codes)[1])
    learned = {name for name, value in other.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in learned if name.startswith("code.")} == {"appearance", "painter"}
    other.train().loss(BATCH)[0].backward()


MISFITS: list[tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = [
    (lambda tensors, header: header.pop("perception"), "no valid configuration: a perception model is for"),
    (lambda tensors, header: header.update(perception=[1]), "no valid configuration of its perception model"),
    (lambda tensors, header: header["perception"].update(model="mirror"), "holds a 'mirror', not one of"),
    (lambda tensors, header: header["config"]["code"].update(num_keypoints=3), "make them equal"),
    (lambda tensors, header: tensors.pop("code.perception.keynet.1.bias"), "does not fit its configuration"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_a_perception_model_that_does_not_fit_is_refused(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    on_transporter().save(path)
    tensors, header = load_tensors(path)
    change(tensors, header)
    save_tensors(path, tensors, header)
    with pytest.raises(UsageError, match=message):
        StructVRNN.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "transporter.safetensors"
    Transporter(TransporterConfig(num_keypoints=2, image_size=16, filters=(4, 4), strides=(1, 2))).save(other)
    with pytest.raises(UsageError, match="holds a 'transporter', not a struct_vrnn"):
        StructVRNN.load(other)
    with pytest.raises(UsageError, match="no weights file at"):
        StructVRNN.load(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(UsageError, match="damaged or no safetensors file"):
        StructVRNN.load(tmp_path / "text")


@given(st.data())
def test_a_damaged_file_is_refused_in_one_line(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(saved.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        # The header is where a file is most easily misunderstood.
        position = data.draw(st.integers(0, 4000) | st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        StructVRNN.load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_eight_sequences_are_learned_by_heart() -> None:
    code = CodeConfig(2, image_size=SIZE, patch=2, filters=(24,), location="softmax")
    dynamics = DynamicsConfig(
        observed=2, predicted=2, samples=8, latent=4, kl_scale=1e-3, posterior_units=32, rnn_units=128, own_predicted=1.0
    )
    model = StructVRNN(StructVRNNConfig(code, dynamics))
    frames, steps = drawn(8, 4), 230
    groups = [{"params": model.code.parameters(), "lr": 5e-3}, {"params": model.dynamics.parameters(), "lr": 1e-2}]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    history = []
    for step in range(steps):
        loss, metrics = model.loss({"frames": frames, "progress": step / steps, "seed": step})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        history.append({name: value.item() for name, value in metrics.items()})
    still = ((frames[:, 1:] / 255 - frames[:, :1] / 255) ** 2).sum(axis=(2, 3, 4)).mean() / 2
    end = {name: np.mean([one[name] for one in history[-10:]]) for name in history[0]}
    assert end["image"] < 0.05 * still
    assert end["predicted"] < 0.05 * history[0]["predicted"]
    # The KL divergence keeps the belief of what is seen from being sure.
    assert end["observed"] < 0.1 * history[0]["observed"]
    codes = model.encode_sequence(frames)
    belief, _ = model.observe(frames[:, :2])
    best = (model.imagine(belief, 2, samples=20) - codes[:, None, 2:]).square().sum(dim=(2, 3)).amin(dim=1)
    last = (codes[:, 1:2] - codes[:, 2:]).square().sum(dim=(1, 2))
    assert best.mean() < 0.2 * last.mean()
