"""Rollouts: what is put beside what, against the model's own verbs, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.rollouts import OBSERVED, PREDICTED, film, keypoint_sheet, rebuild, roll_out, sheet
from kpagent.dynamics.struct_vrnn import StructVRNN, to_keypoints
from kpagent.errors import UsageError

SIZE = 16
CODE = CodeConfig(2, image_size=SIZE, filters=(4, 6), location="softmax", extra_layers=0)
DYNAMICS = DynamicsConfig(observed=3, predicted=2, samples=2, latent=2, prior_units=4, posterior_units=6, rnn_units=8)
FRAMES = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)
ACTIONS = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)


def new_model(code: CodeConfig = CODE, **dynamics: Any) -> StructVRNN:
    torch.manual_seed(0)
    return StructVRNN(StructVRNNConfig(code, replace(DYNAMICS, **dynamics))).eval()


@pytest.mark.parametrize("actions", [0, 2])
def test_futures_are_those_that_the_model_imagines_after_what_it_observed(actions: int) -> None:
    model = new_model(actions=actions)
    given = ACTIONS[:6] if actions else None
    found = roll_out(model, FRAMES, steps=3, samples=2, actions=given, seed=4)
    assert (found.observed, found.lengths) == (3, (6, 6, 6))
    assert np.array_equal(found.frames[0], FRAMES[:6])
    assert found.keypoints is not None
    belief, decoded = model.observe(FRAMES[None, :3], None if given is None else given[None, :2])
    after = None if given is None else given[None, 2:5]
    futures = model.imagine(belief, 3, samples=2, actions=after, seed=4)
    for row in range(2):
        codes = torch.cat([decoded, futures[:, row]], dim=1)
        assert np.array_equal(found.frames[1 + row], model.render(FRAMES[None, 0], codes)[0])
        np.testing.assert_array_equal(found.keypoints.xy[1 + row], to_keypoints(codes)[0].numpy().xy)
    np.testing.assert_allclose(found.keypoints.xy[0], model.encode(FRAMES[:6]).numpy().xy, atol=1e-5)


def test_a_deterministic_model_shows_the_codes_that_it_saw() -> None:
    model = new_model(stochastic=False)
    found = roll_out(model, FRAMES, steps=2, samples=1)
    seen = model.render(FRAMES[None, 0], model.encode_sequence(FRAMES[None, :3]))[0]
    assert np.array_equal(found.frames[1, :3], seen)


def test_what_lies_beyond_the_truth_is_dark() -> None:
    found = roll_out(new_model(), FRAMES[:4], steps=5, samples=1)
    assert found.lengths == (4, 8)
    assert not found.frames[0, 4:].any()
    last = list(film(found, scale=2))[-1]
    cell = 2 * SIZE + 8
    assert last.shape == (cell + 8, 2 * (cell + 4) + 4, 3)
    assert not last[4 : 4 + cell, 4 : 4 + cell].any()
    assert tuple(last[5, 4 + cell + 5]) == PREDICTED


@pytest.mark.parametrize("kind", ["keypoints", "vector"])
def test_borders_tell_what_was_observed(kind: Any) -> None:
    found = roll_out(new_model(replace(CODE, kind=kind)), FRAMES, steps=4, samples=2)
    assert (found.keypoints is None) == (kind == "vector")
    picture = sheet(found, scale=1)
    cell = SIZE + 8
    assert picture.shape == (3 * (cell + 4) + 4, 7 * (cell + 4) + 4, 3)
    corners = picture[4 :: cell + 4, 4 :: cell + 4]
    for row in corners[:3]:
        assert [tuple(color) for color in row[:7]] == [OBSERVED] * 3 + [PREDICTED] * 4
    if kind == "vector":
        assert np.array_equal(picture[8 : 8 + SIZE, 8 : 8 + SIZE], FRAMES[0])
    assert len(list(film(found))) == 7


def test_rebuilt_frames_are_painted_from_their_own_codes() -> None:
    model = new_model()
    found = rebuild(model, FRAMES)
    assert (found.observed, found.lengths) == (7, (7, 7))
    assert np.array_equal(found.frames[1], model.render(FRAMES[None, 0], model.encode_sequence(FRAMES[None]))[0])


def test_frames_of_another_size_are_shown_as_the_networks_see_them() -> None:
    large = FRAMES.repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(roll_out(new_model(), large, steps=1, samples=1).frames[0], FRAMES[:4])
    assert keypoint_sheet(new_model(), large[:3], columns=3).shape[2] == 3


def test_too_little_is_refused() -> None:
    with pytest.raises(UsageError, match="observes 3 frames, and the sequence has 2"):
        roll_out(new_model(), FRAMES[:2], steps=1, samples=1)
    with pytest.raises(UsageError, match="3 frames and 6 steps need 8 actions, and the sequence has 7"):
        roll_out(new_model(actions=2), FRAMES, steps=6, samples=1, actions=ACTIONS)
    with pytest.raises(UsageError, match="need 3 actions, and the sequence has 0"):
        roll_out(new_model(actions=2), FRAMES, steps=1, samples=1)
    for steps, samples in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="steps and samples must be at least 1"):
            roll_out(new_model(), FRAMES, steps=steps, samples=samples)
