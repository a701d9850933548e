from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from turning_dots import CODES, FRAMES, SIZE, config, drawn, turning

from kpagent.errors import UsageError
from kpagent.evaluation.keyframes import match_sequences
from kpagent.files import load_tensors, save_tensors
from kpagent.perception.transporter import Transporter, TransporterConfig
from kpagent.subgoals import soft_time
from kpagent.subgoals.configuration import CodecConfig
from kpagent.subgoals.keyframe_model import FORMAT
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.networks import generator_of, split_gaussian

PLACES = turning(3, 8)[0]
BATCH: dict[str, Any] = {"codes": PLACES, "frames": drawn(PLACES), "seed": (0, 1)}
PROVENANCE = {"source": "brownian", "steps": 100, "held_out": {"loss": 0.05}}
KINDS = pytest.mark.parametrize("codec", [CODES, FRAMES], ids=["codes", "frames"])


def new(codec: CodecConfig = CODES, **changes: Any) -> KeyIn:
    torch.manual_seed(0)
    return KeyIn(config(codec, **changes), PROVENANCE).eval()


def sequences_of(codec: CodecConfig) -> np.ndarray:
    return BATCH["codes"] if codec is CODES else BATCH["frames"]


# The loss


def slow_loss(model: KeyIn) -> dict[str, float]:
    """Eq. 3 to 5 by all combinations of offsets, one sequence after the other."""
    shape, codec = model.config, model.interpolator.codec
    observed = codec.observe(sequences_of(CODES if shape.codec.kind == "codes" else FRAMES), model.device)
    codes = codec.encode(observed)
    draws = generator_of(BATCH["seed"], model.device)
    noise = torch.randn(3, 3, 3, generator=draws)
    segment_noise = torch.randn(3, 3, 2, generator=draws)
    given, future, after = codes[:, :2], codes[:, 2:], observed[:, 2:]
    found = model.predictor(codec, given, noise, future)
    assert found.mean is not None
    assert found.std is not None
    sums = dict.fromkeys(("code", "kl", "image", "sequence", "keyframes"), 0.0)
    for b in range(3):
        starts = torch.cat([given[b, -1:], found.codes[b, :-1]])
        made = codec.decode(model.interpolator(starts, found.codes[b], found.offsets[b], segment_noise[b]))
        mixed, mass = torch.zeros(6, made.shape[-1]), torch.zeros(6)
        times = torch.zeros(3, 6)
        for lengths in itertools.product(range(4), repeat=3):
            probability = math.prod(float(found.offsets[b, t, length]) for t, length in enumerate(lengths))
            now = 0
            for t, length in enumerate(lengths):
                for i in range(length + 1):
                    now += 1
                    if now <= 6:
                        mixed[now - 1] += probability * made[t, i]
                        mass[now - 1] += probability
                if now <= 6:
                    times[t, now - 1] += probability
        inside = times.sum(dim=1)
        shares = times / inside[:, None]
        errors = {
            "code": (found.codes[b] - shares @ future[b]).square().sum(dim=1),
            "kl": torch.distributions.kl_divergence(
                torch.distributions.Normal(found.mean[b], found.std[b]),
                torch.distributions.Normal(found.prior_mean[b], found.prior_std[b]),
            ).sum(dim=1),
            "image": codec.error(
                codec.decode(found.codes[b : b + 1]), torch.einsum("tn,n...->t...", shares, after[b])[None]
            )[0],
        }
        for name, error in errors.items():
            sums[name] += float((inside * error).sum() / inside.sum()) / 3
        sums["sequence"] += float(codec.error((mixed / mass[:, None])[None], after[b : b + 1]).sum()) / 3
        sums["keyframes"] += float(inside.sum()) / 3
    return sums


@KINDS
@pytest.mark.parametrize("prior", ["unit", "learned"])
def test_the_loss_is_that_of_equations_3_to_5(codec: CodecConfig, prior: str) -> None:
    model = new(codec, prior=prior, image_scale=0.3, code_scale=0.7, kl_scale=0.2, sequence_scale=1.5, keyframe_cost=0.1)
    with torch.no_grad():
        loss, metrics = model.loss(BATCH)
        slow = slow_loss(model)
    for name, value in slow.items():
        assert metrics[name].item() == pytest.approx(value, rel=1e-4), name
    scales = {"image": 0.3, "code": 0.7, "kl": 0.2, "sequence": 1.5, "keyframes": 0.1}
    assert loss.item() == pytest.approx(sum(scale * slow[name] for name, scale in scales.items()), rel=1e-4)
    assert "guide" not in metrics


@KINDS
@pytest.mark.parametrize(("attention", "prior"), [("keyframe", "unit"), ("time", "learned")])
def test_the_second_stage_reaches_all_of_the_predictor_and_nothing_else(
    codec: CodecConfig, attention: str, prior: str
) -> None:
    model = new(codec, attention=attention, prior=prior)
    model.interpolator.requires_grad_(False)
    model.loss(BATCH)[0].backward()
    assert all(value.grad is None for value in model.interpolator.parameters())
    for name, value in model.predictor.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


def test_at_once_the_interpolator_learns_too() -> None:
    model = new(FRAMES)
    model.loss(BATCH)[0].backward()
    learned = {name for name, value in model.interpolator.named_parameters() if value.grad is not None}
    # All but the posterior of its own VAE, which is replaced by the prior.
    assert learned == {name for name, _ in model.interpolator.named_parameters() if not name.startswith("posterior")}


def test_fixed_offsets_are_not_learned() -> None:
    model = new(fixed_offsets=(2, 1, 4))
    expected = F.one_hot(torch.tensor([1, 0, 3]), 4).float().expand(3, 3, 4)
    found = model.discover(PLACES)
    assert torch.equal(found.offsets, expected)
    assert found.times.tolist() == [[3, 4, 8]] * 3
    assert [row.tolist() for row in found.inside()] == [[3, 4]] * 3
    _, metrics = model.loss(BATCH)
    assert metrics["keyframes"] == 2
    assert metrics["unsure"] == 0


def test_the_guide_says_where_the_interpolator_errs_least(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new(guide_share=0.5, guide_scale=2.0, guided=2)
    # Nothing costs but what is not on the way 2, 3, 1; its last segment ends with the sequence, and is nobody's aim.
    costs = torch.full((2, 6, 4), 5.0)
    for start, offset in ((0, 2), (2, 3), (5, 1)):
        costs[:, start, offset - 1] = 0
    monkeypatch.setattr(model.interpolator, "costs", lambda codes, observed: costs)
    led = torch.tensor([[2, 3, 1], [2, 3, 1]])
    offsets = model.predictor(
        model.interpolator.codec,
        torch.from_numpy(PLACES[:, :2]),
        torch.randn(3, 3, 3, generator=generator_of(BATCH["seed"], model.device)),
        torch.from_numpy(PLACES[:, 2:]),
        led,
    ).offsets
    expected = -(offsets[:2, 0, 1].log() + offsets[:2, 1, 2].log()).mean() / 2
    unweighted = KeyIn(replace(model.config, guide_scale=0.0))
    unweighted.load_state_dict(model.state_dict())
    monkeypatch.setattr(unweighted.interpolator, "costs", lambda codes, observed: costs)
    for progress, scale in ((0.0, 2.0), (0.25, 2.0), (0.5, 0.0), (1.0, 0.0)):
        batch = BATCH | {"progress": progress}
        loss, metrics = model.loss(batch)
        assert (loss - unweighted.loss(batch)[0]).item() == pytest.approx(scale * expected.item(), rel=1e-3, abs=1e-6)
        assert ("guide" in metrics) == (scale > 0)
        if scale:
            assert metrics["guide"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_keyframe_that_is_led_is_predicted_from_the_true_frame_before() -> None:
    model = new(attention="time")
    given, future = torch.from_numpy(PLACES[:, :2]), torch.from_numpy(PLACES[:, 2:])
    noise = torch.zeros(3, 3, 3)

    def predict(led: list[list[int]] | None) -> Any:
        return model.predictor(model.interpolator.codec, given, noise, future, None if led is None else torch.tensor(led))

    free, led = predict(None), predict([[2, 3, 1], [0, 0, 0]])
    # Nothing leads the first keyframe, those behind a 0, and other sequences.
    assert torch.equal(free.codes[:, 0], led.codes[:, 0])
    assert torch.equal(free.offsets[1:], led.offsets[1:])
    assert not torch.allclose(free.offsets[0, 1], led.offsets[0, 1])
    # The belief about the second keyframe is what LSTMinf says of time 2, and about the third of time 5.
    said = model.predictor._infer(given, future)
    for t, time in ((1, 2), (2, 5)):
        mean, std = split_gaussian(said[0, time])
        torch.testing.assert_close(led.mean[0, t], mean)
        torch.testing.assert_close(led.std[0, t], std)


def test_a_unit_prior_is_one_and_a_learned_one_depends_on_what_was_given() -> None:
    given, noise = torch.from_numpy(PLACES[:, :2]), torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0))
    for prior in ("unit", "learned"):
        model = new(prior=prior)
        found = model.predictor(model.interpolator.codec, given, noise)
        if prior == "unit":
            assert torch.equal(found.prior_mean, torch.zeros(3, 3, 3))
            assert torch.equal(found.prior_std, torch.ones(3, 3, 3))
            continue
        assert len(found.prior_mean[:, 0].unique(dim=0)) == len(given)
        # The same latents by a unit prior give the same keyframes: noise is moved and scaled as the prior says.
        unit = new(prior="unit")
        unit.load_state_dict({name: value for name, value in model.state_dict().items() if ".prior." not in name})
        latents = found.prior_mean + found.prior_std * noise
        torch.testing.assert_close(unit.predictor(unit.interpolator.codec, given, latents).codes, found.codes)


def test_attention_at_a_soft_time_is_the_mean_over_where_a_keyframe_may_be() -> None:
    model = new(attention="time")
    given, future = torch.from_numpy(PLACES[:, :2]), torch.from_numpy(PLACES[:, 2:])
    found = model.predictor(model.interpolator.codec, given, torch.zeros(3, 3, 3), future)
    said = model.predictor._infer(given, future).detach().numpy()
    times = soft_time.keyframe_times(found.offsets, future.shape[1]).detach().numpy()
    for b in range(3):
        for t in range(3):
            # Beyond the sequence nothing is said: the belief is the prior.
            where = [1.0] + [0.0] * 5 if t == 0 else [0.0, *times[b, t - 1][:-1]]
            expected = sum(chance * said[b, n] for n, chance in enumerate(where))
            np.testing.assert_allclose(found.mean[b, t].detach(), expected[:3], atol=1e-5)
            np.testing.assert_allclose(found.std[b, t].detach().log(), expected[3:], atol=1e-5)


def test_the_loss_is_a_function_of_the_seed() -> None:
    model = new()
    assert torch.equal(model.loss(BATCH)[0], model.loss(BATCH)[0])
    assert not torch.equal(model.loss(BATCH)[0], model.loss(BATCH | {"seed": 5})[0])


def test_a_loss_in_bfloat16_is_about_that_in_float32() -> None:
    for codec in (CODES, FRAMES):
        model = new(codec)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = model.loss(BATCH)
        assert rounded.item() == pytest.approx(model.loss(BATCH)[0].item(), rel=0.05)


def test_sequences_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sequences must be of 2 \+ 6 frames, not 7"):
        new().loss({"codes": PLACES[:, :7], "seed": 0})


# Use


@KINDS
def test_keyframes_are_found_sequence_by_sequence(codec: CodecConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = new(codec), sequences_of(codec)
    found = model.discover(sequences)
    size = codec.size
    assert (found.first.shape, found.codes.shape, found.offsets.shape) == ((3, size), (3, 3, size), (3, 3, 4))
    assert (found.times.shape, found.probabilities.shape, found.length) == ((3, 3), (3, 3), 8)
    torch.testing.assert_close(found.offsets.sum(dim=-1), torch.ones(3, 3))
    assert torch.equal(found.times, (found.offsets.argmax(dim=-1) + 1).cumsum(dim=1) + 1)
    assert ((found.probabilities >= 0) & (found.probabilities <= 1 + 1e-6)).all()
    assert (found.probabilities.diff(dim=1) <= 1e-6).all()
    monkeypatch.setattr("kpagent.subgoals.keyin.CHUNK", 2)
    torch.testing.assert_close(model.discover(torch.from_numpy(sequences)).codes, found.codes)
    torch.testing.assert_close(found.first, model.encode(sequences)[:, 1])


def test_what_is_found_hangs_on_the_future_and_what_is_sampled_does_not() -> None:
    model = new()
    other = PLACES.copy()
    other[:, 2:] += 1
    assert not torch.allclose(model.discover(PLACES).codes, model.discover(other).codes)
    with pytest.raises(ValueError, match="2 frames must be given"):
        model.sample(PLACES)
    with pytest.raises(ValueError, match="more than the 2 frames that are given"):
        model.discover(PLACES[:, :2])


def test_samples_differ_and_come_again() -> None:
    model = new(FRAMES)
    frames = BATCH["frames"][:, :2]
    found = model.sample(frames, 4, seed=3)
    assert (found.codes.shape, found.times.shape, found.length) == ((3, 4, 3, 6), (3, 4, 3), 8)
    assert torch.equal(found.codes, model.sample(frames, 4, seed=3).codes)
    assert not torch.allclose(found.codes[:, 0], found.codes[:, 1])
    assert not torch.equal(found.codes, model.sample(frames, 4, seed=4).codes)
    assert len(found.inside()) == 12
    latents = torch.randn(3, 4, 3, 3, generator=generator_of(3, model.device))
    assert torch.equal(model.predict(frames, latents).codes, found.codes)


def test_frames_between_keyframes_are_those_of_their_segments() -> None:
    model = new(fixed_offsets=(2, 1, 3))
    found = model.discover(PLACES)
    codes = model.interpolate(found)
    assert codes.shape == (3, 6, 2)
    row = 0
    for t, offset in enumerate((2, 1, 3)):
        first = found.first if t == 0 else found.codes[:, t - 1]
        with torch.no_grad():
            made = model.interpolator(first, found.codes[:, t], found.offsets[:, t], torch.zeros(3, 2))
        torch.testing.assert_close(codes[:, row : row + offset], made[:, :offset])
        row += offset
    assert not torch.allclose(model.interpolate(found, seed=1), codes)
    assert torch.equal(model.interpolate(found, seed=1), model.interpolate(found, seed=1))
    assert model.interpolate(model.sample(PLACES[:, :2], 5)).shape == (3, 5, 6, 2)


def test_longer_sequences_than_keyframes_reach_keep_their_last_frame() -> None:
    model = new(fixed_offsets=(2, 1, 3))
    found = model.discover(turning(2, 14)[0])
    codes = model.interpolate(found)
    assert codes.shape == (2, 12, 2)
    torch.testing.assert_close(codes[:, 7:], codes[:, 6:7].expand(-1, 5, -1))


def test_frames_are_painted_and_codes_are_not() -> None:
    model = new(FRAMES)
    codes = model.interpolate(model.sample(BATCH["frames"][:, :2], 2))
    frames = model.render(codes)
    assert (frames.shape, frames.dtype) == ((3, 2, 6, SIZE, SIZE, 3), np.uint8)
    with torch.no_grad():
        expected = model.interpolator.codec.decode(codes[1, 1]).mul(255).view(6, SIZE, SIZE, 3)
    np.testing.assert_allclose(frames[1, 1], expected, atol=0.51)
    with pytest.raises(UsageError, match="learned from codes"):
        new().render(codes)


# On disk


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    new(FRAMES, fixed_offsets=(2, 2, 3)).save(path)
    return path


def test_what_is_saved_is_loaded(saved: Path, tmp_path: Path) -> None:
    model = KeyIn.load(saved)
    assert model.config == config(FRAMES, fixed_offsets=(2, 2, 3))
    assert model.provenance == PROVENANCE
    assert not model.training
    assert all(value.requires_grad for value in model.parameters())
    model.save(tmp_path / "again.safetensors")
    assert load_tensors(saved)[1] == load_tensors(tmp_path / "again.safetensors")[1]
    other, first = KeyIn.load(tmp_path / "again.safetensors"), new(FRAMES, fixed_offsets=(2, 2, 3))
    for one in (other, first):
        assert torch.equal(one.discover(BATCH["frames"]).codes, model.discover(BATCH["frames"]).codes)
        assert torch.equal(one.loss(BATCH)[0], model.loss(BATCH)[0])


def _drop(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    del tensors["predictor.key.after.bias"]


def _add(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["another"] = torch.zeros(3)


def _reshape(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["predictor.key.after.bias"] = torch.zeros(7)


def _retype(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["predictor.key.after.bias"] = tensors["predictor.key.after.bias"].long()


def _spoil(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["predictor.key.after.bias"][2] = math.nan


def _with(**values: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        header["config"] |= values

    return change


def _header(**values: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        header |= values

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], None], str]] = {
    "a tensor less": (_drop, "does not fit its configuration: predictor.key.after.bias is None, not "),
    "a tensor more": (_add, "does not fit its configuration: another is "),
    "another shape": (_reshape, r"predictor.key.after.bias is \(7,\) torch.float32, not \(10,\) torch.float32"),
    "another type": (_retype, r"predictor.key.after.bias is \(10,\) torch.int64, not \(10,\) torch.float32"),
    "NaN": (_spoil, "holds weights that are not finite numbers"),
    "another size": (_with(units=7), "does not fit its configuration"),
    "a huge size": (_with(units=10**7), "does not fit its configuration"),
    "a word for a number": (_with(latent="three"), "latent must be a whole number; got 'three'"),
    "an unknown field": (_with(flavour=1), "no valid configuration: .*flavour"),
    "an impossible value": (_with(keyframes=0), "no valid configuration: keyframes must be at least 1"),
    "another codec": (_with(codec={"kind": "codes", "size": 6}), "does not fit its configuration"),
    "no codec": (_with(codec=None), "no valid configuration"),
    "no configuration": (_header(config=None), "no valid configuration"),
    "half a configuration": (_header(config={"latent": 3}), "no valid configuration"),
    "a list for a configuration": (_header(config=[]), "no valid configuration"),
    "another model": (_header(model="transporter"), "holds a 'transporter', not a keyin"),
    "no model": (_header(model=None), "holds a None, not a keyin"),
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
        KeyIn.load(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "transporter.safetensors"
    Transporter(TransporterConfig(num_keypoints=2, image_size=16, filters=(4, 4), strides=(1, 2))).save(other)
    with pytest.raises(UsageError, match="holds a 'transporter', not a keyin"):
        KeyIn.load(other)
    with pytest.raises(UsageError, match="no weights file at"):
        KeyIn.load(tmp_path / "absent.safetensors")


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
        KeyIn.load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@KINDS
def test_the_search_finds_the_keyframes_between_which_the_interpolator_errs_least(codec: CodecConfig) -> None:
    model = new(codec, keyframe_cost=0.01)
    found = model.search(sequences_of(codec))
    codes = model.encode(sequences_of(codec))
    observed = model.interpolator.codec.observe(sequences_of(codec), model.device)
    costs = model.interpolator.costs(codes[:, 1:], observed[:, 1:]).numpy()
    for b in range(3):
        ways = [
            lengths for count in (1, 2, 3) for lengths in itertools.product(range(1, 5), repeat=count) if sum(lengths) == 6
        ]
        sums = {
            lengths: 0.01 * len(lengths)
            + sum(
                costs[b, start, length - 1]
                for start, length in zip(itertools.accumulate((0, *lengths)), lengths, strict=False)
            )
            for lengths in ways
        }
        best = min(sums, key=lambda lengths: sums[lengths])
        times = [1 + time for time in itertools.accumulate(best)]
        assert found.times[b, : len(best)].tolist() == times
        # The others lie beyond the end.
        assert (found.times[b, len(best) :] >= 8).all()
        assert found.inside()[b].tolist() == times
        assert torch.equal(found.codes[b, : len(best)], codes[b, times])
    assert found.probabilities.sum(dim=1).tolist() == [len(row) for row in found.inside()]


# Learning


def test_the_turns_of_a_few_sequences_are_found() -> None:
    torch.manual_seed(0)
    shape = config(
        units=32,
        layers=1,
        start_units=32,
        attention="time",
        frames=8,
        keyframes=4,
        shortest_segment=1,
        code_scale=10.0,
        sequence_scale=100.0,
        keyframe_cost=0.3,
        guide_share=0.6,
        guide_scale=100.0,
        guided=6,
    )
    model = KeyIn(shape)
    places, turns = turning(400, 10, seed=3, runs=(3, 4))
    optimiser = torch.optim.Adam(model.interpolator.parameters(), 1e-2)
    for step in range(60):
        _step(optimiser, model.interpolator.loss({"codes": places[step % 8 :: 8], "seed": step})[0])
    model.interpolator.requires_grad_(False)
    optimiser, steps = torch.optim.Adam(model.predictor.parameters(), 1e-2), 250
    few, true = places[:6], [np.flatnonzero(row) for row in turns[:6]]
    before = match_sequences(model.discover(few).inside(), true, start=2, stop=9).f1
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        _step(optimiser, model.loss({"codes": few, "seed": step, "progress": step / steps})[0])
    found = model.discover(few)
    assert before < 0.6
    assert match_sequences(found.inside(), true, start=2, stop=9).f1 > 0.85
    # The keyframes explain the rest: the dot goes 0.15 a frame.
    assert (model.interpolate(found).numpy() - few[:, 2:]).std() < 0.05


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
