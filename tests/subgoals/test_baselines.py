from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence
from turning_dots import CODES, FRAMES, config, drawn, turning

from kpagent.errors import UsageError
from kpagent.subgoals.baselines import STATIC_BROWNIAN, STATIC_PUSHING, constant_keyframes, form_config, random_keyframes
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig
from kpagent.subgoals.surprise import SurprisePredictor, surprise_peaks
from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor

KINDS = pytest.mark.parametrize("codec", [CODES, FRAMES], ids=["codes", "frames"])


def learn(model: Any, batch: dict[str, Any], steps: int, rate: float = 3e-3) -> dict[str, float]:
    optimiser = torch.optim.Adam(model.parameters(), rate)
    metrics: dict[str, torch.Tensor] = {}
    for step in range(steps):
        loss, metrics = model.loss(batch | {"seed": step})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: float(value) for name, value in metrics.items()}


def test_forms_differ_in_offsets_alone() -> None:
    for base, static in ((KeyInConfig.brownian(), STATIC_BROWNIAN), (KeyInConfig.pushing(), STATIC_PUSHING)):
        assert form_config("keyin", base) == base
        # The patterns counted from 0 are 3, 5, 4, 4, 3, 7 and 3, 4, 4, 4, 4, 5.
        assert form_config("static", base, static=static) == replace(base, fixed_offsets=static)
        assert form_config("jumpy", base) == replace(base, fixed_offsets=(6,) * 6)
        assert sum(static) >= base.frames
    with pytest.raises(UsageError, match="no form called 'leaps'; there are keyin, static, jumpy"):
        form_config("leaps", KeyInConfig.brownian())
    with pytest.raises(UsageError, match="fixed_offsets must"):
        form_config("static", KeyInConfig.pushing(), static=STATIC_BROWNIAN)


def test_constant_keyframes_are_those_of_jumpy() -> None:
    assert constant_keyframes(KeyInConfig.brownian()).tolist() == [10, 16, 22, 28, 34]
    assert constant_keyframes(KeyInConfig.pushing(), 5).tolist() == [5, 10, 15, 20, 25, 30]
    assert constant_keyframes(config()).tolist() == [4, 7]


def test_random_keyframes_are_any() -> None:
    shape = config()
    found = random_keyframes(shape, 600, seed=1)
    assert all(len(row) == 3 and (np.diff(row) > 0).all() for row in found)
    counts = np.bincount(np.concatenate(found), minlength=8)
    assert not counts[:2].any()
    np.testing.assert_allclose(counts[2:], 300, atol=60)
    again = random_keyframes(shape, 600, seed=1)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


# Surprise


def test_peaks_by_hand() -> None:
    surprise = np.array([9, 1, 5, 2, 8, 3, 3, 4, 0, 7.0])
    # Peaks at 2, 4 and 7; then the largest of the others, 9.0 at 0 and 7.0 at 9.
    assert surprise_peaks(surprise, 1).tolist() == [4]
    assert surprise_peaks(surprise, 2).tolist() == [2, 4]
    assert surprise_peaks(surprise, 3).tolist() == [2, 4, 7]
    assert surprise_peaks(surprise, 4).tolist() == [0, 2, 4, 7]
    assert surprise_peaks(surprise, 5).tolist() == [0, 2, 4, 7, 9]
    with pytest.raises(ValueError, match=r"surprise must be \(L,\)"):
        surprise_peaks(surprise[None], 1)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_peaks_are_those_of_algorithm_3(values: list[float], keyframes: int) -> None:
    surprise = np.array(values)
    peaks = {t for t in range(1, len(values) - 1) if values[t] > values[t + 1] and values[t] > values[t - 1]}
    if len(peaks) < keyframes:
        others = sorted(set(range(len(values))) - peaks, key=lambda t: -values[t])
        peaks |= set(others[: keyframes - len(peaks)])
    expected = sorted(sorted(sorted(peaks), key=lambda t: -values[t])[:keyframes])
    assert surprise_peaks(surprise, keyframes).tolist() == expected


@KINDS
def test_surprise_is_a_divergence_that_has_seen_the_frame(codec: CodecConfig) -> None:
    torch.manual_seed(0)
    model = SurprisePredictor(config(codec))
    places = turning(3, 8)[0]
    batch: dict[str, Any] = {"codes": places, "frames": drawn(places), "seed": 0}
    sequences = batch[model.codec.name]
    surprise = model.surprise(sequences)
    assert surprise.shape == (3, 7)
    later = sequences.copy()
    later[:, 5:] = 0
    np.testing.assert_allclose(model.surprise(later)[:, :4], surprise[:, :4], rtol=1e-4, atol=1e-6)
    assert not np.allclose(model.surprise(later)[:, 4:], surprise[:, 4:])
    with torch.no_grad():
        mean, std = model._beliefs(model.codec.encode(model.codec.of_batch(batch, torch.device("cpu"))))
    expected = kl_divergence(Normal(mean, std), Normal(torch.zeros(3), torch.ones(3))).sum(dim=-1)
    np.testing.assert_allclose(surprise, expected, rtol=1e-4, atol=1e-6)
    loss, metrics = model.loss(batch)
    assert metrics["kl"].item() == pytest.approx(expected.sum(dim=1).mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx((metrics["sequence"] + 1e-3 * metrics["kl"]).item(), rel=1e-5)
    loss.backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


def test_keyframes_are_before_the_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SurprisePredictor(config(keyframes=2, longest=4))
    # Of frames 1 to 7; what is given is 0 and 1, and the surprise of frame 2 may be that of the first step.
    surprise = np.array([[90, 80, 1, 6, 2, 7, 1.0]])
    monkeypatch.setattr(model, "surprise", lambda sequences: surprise)
    assert [row.tolist() for row in model.discover(None)] == [[3, 5]]


def test_a_turn_surprises() -> None:
    torch.manual_seed(0)
    model = SurprisePredictor(config(units=24, layers=1, keyframes=1, longest=6, segment_kl_scale=1e-3))
    places, turns = turning(100, 8, runs=(5, 5))
    learn(model, {"codes": places}, 300, 1e-2)
    found = np.concatenate(model.discover(places))
    assert turns[:, 5].all()
    assert (found == 5).mean() > 0.6


# Time-agnostic prediction


@KINDS
def test_only_the_nearest_frame_counts(codec: CodecConfig) -> None:
    torch.manual_seed(0)
    model = TimeAgnosticPredictor(config(codec))
    places = turning(2, 6)[0]
    batch = {"codes": places, "frames": drawn(places), "seed": 0}
    loss, metrics = model.loss(batch)
    observed = model.codec.of_batch(batch, torch.device("cpu"))
    codes = model.codec.encode(observed)
    made = model.codec.decode(model._predict(codes[:, 1], codes[:, 5]))
    errors = torch.stack([model.codec.error(made[:, None], observed[:, t : t + 1])[:, 0] for t in (2, 3, 4)], dim=1)
    assert metrics["nearest"].item() == pytest.approx(errors.min(dim=1).values.mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx((metrics["nearest"] + metrics["boundary"]).item(), rel=1e-4)
    loss.backward()
    assert all(value.grad is not None for value in model.parameters())


def test_a_bottleneck_is_found_and_halved_again() -> None:
    torch.manual_seed(0)
    draws = np.random.default_rng(0)
    model = TimeAgnosticPredictor(config(start_units=32))
    # All ways lead from one place to another, through (0.5, 0.5) at some time, and else anywhere.
    places = draws.uniform(-1, 1, (60, 8, 2))
    places[:, 1], places[:, -1] = (-1, -1), (1, 1)
    when = draws.integers(2, 7, 60)
    places[np.arange(60), when] = 0.5
    learn(model, {"codes": places}, 120, 1e-2)
    subgoals = model.subgoals(places[:1, 1], places[:1, -1], 1)
    assert subgoals.shape == (1, 1, 2)
    torch.testing.assert_close(subgoals[0, 0], torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)
    assert np.mean([row.tolist() == [one] for row, one in zip(model.discover(places, 1), when, strict=True)]) > 0.9
    assert model.subgoals(places[:2, 1], places[:2, -1], 3).shape == (2, 7, 2)
    deeper = model.discover(places, 2)
    assert all((row >= 2).all() and (row <= 6).all() and len(row) <= 3 for row in deeper)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        model.subgoals(places[:1, 1], places[:1, -1], 0)
    with pytest.raises(ValueError, match="no frame between"):
        model.loss({"codes": places[:, :3]})
