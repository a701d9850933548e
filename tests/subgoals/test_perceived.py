"""A model of keyframes with perception of its own: frames where codes go, one file, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from turning_dots import CODES, FRAMES, SMALL, config, drawn, turning

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.perception.transporter import Transporter, TransporterConfig
from kpagent.perception.zoo import load
from kpagent.subgoals import perceived
from kpagent.subgoals.code_sequences import keypoint_codes
from kpagent.subgoals.explanations import explain, require_sight, show_samples, time_map
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.perceived import Perception, coordinates, load_perception
from kpagent.subgoals.surprise import SurprisePredictor

FRAMES_SEEN = drawn(turning(3, 8)[0], 16)


def transporter(keypoints: int = 2) -> Transporter:
    torch.manual_seed(0)
    return Transporter(TransporterConfig(num_keypoints=keypoints, image_size=16, filters=(4, 4), strides=(1, 2))).eval()


def struct_vrnn(**code: Any) -> StructVRNN:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_keypoints": 2, "image_size": 16, "filters": (4, 6)}
    dynamics = DynamicsConfig(observed=3, predicted=2, prior_units=5, posterior_units=7, rnn_units=6)
    return StructVRNN(StructVRNNConfig(CodeConfig(**(sizes | code)), dynamics)).eval()


def on_another() -> StructVRNN:
    """A Struct-VRNN that has perception itself."""
    base = StructVRNNConfig(CodeConfig(num_keypoints=2, image_size=16, filters=(4, 6)))
    return StructVRNN.on(transporter(), base).eval()


@pytest.fixture(params=[transporter, struct_vrnn, on_another], ids=lambda make: make.__name__)
def perception(request: pytest.FixtureRequest) -> Perception:
    made: Perception = request.param()
    return made


def small(perception: Perception) -> KeyIn:
    torch.manual_seed(0)
    return KeyIn.on(perception, **SMALL).eval()


def test_frames_go_where_codes_go(perception: Perception, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(perception)
    codes = model.encode(FRAMES_SEEN)
    assert codes.shape == (3, 8, 4)
    expected = perception.encode(FRAMES_SEEN.reshape(-1, 16, 16, 3)).xy
    torch.testing.assert_close(codes.reshape(-1, 2, 2), expected, rtol=0, atol=1e-6)
    for find in (model.discover, model.search):
        by_frames, by_codes = find(FRAMES_SEEN), find(codes)
        torch.testing.assert_close(by_frames.codes, by_codes.codes)
        assert torch.equal(by_frames.times, by_codes.times)
    sampled, same = (model.sample(given[:, :2], 3) for given in (FRAMES_SEEN, codes))
    torch.testing.assert_close(sampled.codes, same.codes)
    monkeypatch.setattr(perceived, "CHUNK", 5)
    torch.testing.assert_close(model.encode(FRAMES_SEEN), codes, rtol=0, atol=1e-5)
    assert torch.equal(model.encode(codes), codes)


def test_one_file_holds_both(perception: Perception, tmp_path: Path) -> None:
    model = small(perception)
    model.save(tmp_path / "model.safetensors")
    again = KeyIn.load(tmp_path / "model.safetensors")
    assert type(again.perception) is type(perception)
    assert torch.equal(again.encode(FRAMES_SEEN), model.encode(FRAMES_SEEN))
    assert torch.equal(again.discover(FRAMES_SEEN).codes, model.discover(FRAMES_SEEN).codes)
    again.save(tmp_path / "again.safetensors")
    (tensors, header), (others, other_header) = (
        load_tensors(tmp_path / f"{name}.safetensors") for name in ("model", "again")
    )
    assert header == other_header
    assert set(tensors) == set(others)
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    # A trained run's checkpoints and parameters are those of the model alone.
    assert set(model.state_dict()) == set(KeyIn(model.config).state_dict())
    model.train()
    assert not perception.training
    assert not any(value.requires_grad for value in perception.parameters())


def test_models_without_perception_are_as_they_were(tmp_path: Path) -> None:
    model = KeyIn(config())
    model.save(tmp_path / "model.safetensors")
    assert "perception" not in load_tensors(tmp_path / "model.safetensors")[1]
    again = KeyIn.load(tmp_path / "model.safetensors")
    assert again.perception is None
    with pytest.raises(ValueError, match="codes must be"):
        again.encode(FRAMES_SEEN)


def test_a_baseline_keeps_perception_too(tmp_path: Path) -> None:
    model = SurprisePredictor(small(transporter()).config).attach(transporter())
    model.save(tmp_path / "model.safetensors")
    found = SurprisePredictor.load(tmp_path / "model.safetensors").perception
    assert found is not None
    assert torch.equal(coordinates(found, FRAMES_SEEN[0]), coordinates(transporter(), FRAMES_SEEN[0]))


class Dots:
    """Dots on disk."""

    count = 3
    provenance = Provenance("test", "dots", {}, 0)

    def make(self, start: int, stop: int) -> Any:
        for number in range(start, stop):
            yield FrameSequence(FRAMES_SEEN[number])


def test_what_is_learned_from_is_what_is_seen(tmp_path: Path) -> None:
    write_sequences(tmp_path / "dots.h5", Dots())
    model = small(transporter())
    learned = keypoint_codes(Sequences(tmp_path / "dots.h5"), transporter())
    np.testing.assert_allclose(np.stack(learned.codes), model.encode(FRAMES_SEEN), atol=1e-6)


def test_weights_of_any_kind_are_perception(tmp_path: Path) -> None:
    models: tuple[Perception, ...] = (transporter(), struct_vrnn())
    for number, model in enumerate(models):
        model.save(tmp_path / f"{number}.safetensors")
        found = load_perception(tmp_path / f"{number}.safetensors")
        assert torch.equal(coordinates(found, FRAMES_SEEN[0]), coordinates(model, FRAMES_SEEN[0]))
    pong = load_perception("pong")
    assert pong.num_keypoints == load("pong", "cpu").num_keypoints


def test_perception_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    struct_vrnn(kind="vector").save(tmp_path / "vector.safetensors")
    KeyIn(config()).save(tmp_path / "keyin.safetensors")
    for name, message in (("vector", "it has no keypoints to learn from"), ("keyin", "holds a 'keyin'")):
        with pytest.raises(UsageError, match=message):
            load_perception(tmp_path / f"{name}.safetensors")
    for codec, message in (
        (CODES, "learns from codes of 2 numbers, not from 2"),
        (FRAMES, "learns from frames, not from 2"),
    ):
        with pytest.raises(UsageError, match=message):
            KeyIn(config(codec)).attach(transporter())


def test_files_that_were_altered_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small(transporter()).save(path)
    tensors, header = load_tensors(path)
    inner = header["perception"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"perception": 3}, "no valid configuration of its perception model"),
        ({"perception": inner | {"model": "owl"}}, "holds a 'owl'"),
        ({"perception": inner | {"config": inner["config"] | {"num_keypoints": 3}}}, "does not fit its configuration"),
        ({"config": KeyIn(config()).config.to_dict()}, "does not fit its configuration"),
    ]
    for changes, message in wrong:
        save_tensors(path, tensors, header | changes)
        with pytest.raises(UsageError, match=message) as refusal:
            KeyIn.load(path)
        assert "\n" not in str(refusal.value)
    save_tensors(path, tensors, {name: value for name, value in header.items() if name != "perception"})
    with pytest.raises(UsageError, match=r"does not fit its configuration: perception\."):
        KeyIn.load(path)


# Pictures of what such models find


def test_times_are_a_map_over_frames() -> None:
    found = small(transporter()).discover(FRAMES_SEEN)
    chart = time_map(found, given=2)
    assert chart.shape == (3, 3, 8)
    assert not chart[..., :2].any()
    np.testing.assert_allclose(chart.sum(axis=-1), found.probabilities, atol=1e-6)
    # The first keyframe's time is its offset, from the last frame that is given.
    np.testing.assert_allclose(chart[:, 0, 2:6], found.offsets[:, 0], atol=1e-6)


@pytest.mark.parametrize("sees", [True, False])
def test_a_sequence_is_explained(sees: bool) -> None:
    torch.manual_seed(0)
    model = small(transporter()) if sees else KeyIn(config(FRAMES)).eval()
    frames = FRAMES_SEEN[0]
    side = 64 + 10
    picture = explain(model, frames, np.array([3, 5]))
    assert picture.shape == (20 + 3 * (side + 5) + 3 * 10 + 4, 104 + 8 * side, 3)
    strips, ways = show_samples(model, frames, 2)
    assert strips.shape == (20 + 3 * (side + 5), 104 + 8 * side, 3)
    assert ways.shape[1] == 3 * (192 + 8) + 8
    again = show_samples(model, frames, 2)
    other = show_samples(model, frames, 2, seed=1)
    assert np.array_equal(strips, again[0])
    assert not np.array_equal(strips, other[0])


def test_codes_without_perception_have_no_pictures() -> None:
    with pytest.raises(UsageError, match="it cannot see frames"):
        require_sight(KeyIn(config()))
