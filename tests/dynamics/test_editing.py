"""Counterfactual futures: what is moved, what is not, and what the pictures show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import config, drawn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpagent.dynamics.editing import Futures, counterfactual, move_keypoint, render_futures
from kpagent.dynamics.editing_pictures import (
    BLUE,
    LIGHT_BLUE,
    LIGHT_RED,
    MARGIN,
    RED,
    draw_edit,
    draw_futures,
    edit_film,
    shown_keypoints,
)
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

SIZE, OBSERVED, KEYPOINTS = 32, 4, 3


def small(code: dict[str, Any] | None = None, **dynamics: Any) -> StructVRNN:
    torch.manual_seed(0)
    return StructVRNN(config({"image_size": SIZE} | (code or {}), **dynamics)).eval()


@pytest.fixture(scope="module")
def model() -> StructVRNN:
    return small()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return drawn(1, OBSERVED, SIZE)[0]


@pytest.fixture(scope="module")
def codes(model: StructVRNN, frames: np.ndarray) -> Tensor:
    return model.encode_sequence(frames[None])[0]


def place(codes: Tensor, t: int, keypoint: int) -> list[float]:
    return codes[t, 3 * keypoint : 3 * keypoint + 2].tolist()


def others(codes: Tensor, keypoint: int) -> Tensor:
    kept = [i for i in range(codes.shape[1]) if i not in (3 * keypoint, 3 * keypoint + 1)]
    return codes[:, kept]


MADE = torch.tensor([[0.1 * t, -0.2 * t, 1 + t, 0.5, 0.5, 0.3, 0, 0.1 * t, 0.9] for t in range(5)])


def test_an_offset_grows_steadily_to_its_end() -> None:
    edited = move_keypoint(MADE, 0, by=(0.4, 0.8))
    for t in range(5):
        assert place(edited, t, 0) == pytest.approx([0.1 * t + 0.1 * t, -0.2 * t + 0.2 * t], abs=1e-6)
    assert torch.equal(others(edited, 0), others(MADE, 0))


def test_to_a_place_is_by_what_is_missing() -> None:
    edited = move_keypoint(MADE, 2, to=(-0.5, 0.6), start=2)
    assert place(edited, 4, 2) == pytest.approx([-0.5, 0.6])
    assert place(edited, 3, 2) == pytest.approx([-0.25, 0.3 + 0.1])
    assert torch.equal(edited[:3], MADE[:3])
    assert torch.equal(others(edited, 2), others(MADE, 2))


def test_a_path_is_gone_along_at_one_speed() -> None:
    edited = move_keypoint(MADE, 1, path=[(0, 0), (0.3, 0), (0.3, 0.9)])
    expected = [(0, 0), (0.3, 0), (0.3, 0.3), (0.3, 0.6), (0.3, 0.9)]
    assert np.allclose([place(edited, t, 1) for t in range(5)], expected, atol=1e-6)
    held = move_keypoint(MADE, 1, path=[(0.2, -0.1)], start=3)
    assert np.allclose([place(held, t, 1) for t in range(5)], [(0.5, 0.5)] * 3 + [(0.2, -0.1)] * 2)


@pytest.mark.parametrize("where", [{"to": (0.3, 0.4)}, {"path": [(0, 0), (0.3, 0.4)]}])
def test_the_last_frame_alone_is_edited_at_once(where: dict[str, Any]) -> None:
    edited = move_keypoint(MADE, 0, start=4, **where)
    assert place(edited, 4, 0) == pytest.approx([0.3, 0.4])
    assert torch.equal(edited[:4], MADE[:4])


COORDINATE = st.floats(-1, 1, width=32)


@given(st.integers(0, 2), st.integers(0, 4), COORDINATE, COORDINATE)
def test_a_moved_keypoint_ends_where_it_should_and_stays_within(keypoint: int, start: int, x: float, y: float) -> None:
    before = MADE.clone()
    edited = move_keypoint(MADE, keypoint, to=(x, y), start=start)
    assert place(edited, 4, keypoint) == pytest.approx([x, y], abs=1e-6)
    assert torch.equal(others(edited, keypoint), others(MADE, keypoint))
    assert torch.equal(edited[:start], MADE[:start])
    assert float(edited.unflatten(-1, (-1, 3))[..., :2].abs().max()) <= 1
    assert torch.equal(before, MADE)


@pytest.mark.parametrize(
    ("keypoint", "where", "message"),
    [
        (3, {"by": (0, 0)}, "no keypoint 3; the model has 0 to 2"),
        (-1, {"by": (0, 0)}, "no keypoint -1"),
        (0, {"by": (0, 0), "start": 5}, "no frame 5 to start at; 0 to 4"),
        (0, {}, "by one of to, by and path"),
        (0, {"by": (0, 0), "to": (0, 0)}, "by one of to, by and path"),
        (0, {"to": (1.1, 0)}, r"would be at \(1.1, 0\), outside the frame"),
        (1, {"by": (0, -1.6)}, r"would be at \(0.5, -1.1\), outside the frame"),
        (0, {"path": [(0, 0), (0, 2), (0, 0)]}, "outside the frame"),
        (0, {"to": (float("nan"), 0)}, "to must be finite numbers"),
        (0, {"by": (0, 0, 0)}, "by must be two numbers"),
        (0, {"path": (0, 0)}, "path must be .* places"),
        (0, {"path": np.zeros((0, 2))}, "path must be .* places"),
    ],
)
def test_edits_that_cannot_be_are_refused(keypoint: int, where: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        move_keypoint(MADE, keypoint, **where)


def test_codes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes must be \(T, 3K\)"):
        move_keypoint(MADE[None], 0, by=(0, 0))


def test_futures_are_those_of_the_model(model: StructVRNN, frames: np.ndarray, codes: Tensor) -> None:
    edited = move_keypoint(codes, 1, by=(0.2, 0.1))
    futures = counterfactual(model, frames, edited, steps=5, samples=3, seed=7)
    for observed, found in ((codes, futures.original), (edited, futures.counterfactual)):
        belief, _ = model.observe(observed[None])
        assert torch.equal(found, model.imagine(belief, 5, samples=3, seed=7)[0])
    assert torch.allclose(futures.observed, codes)
    assert torch.equal(futures.edited, edited)
    assert futures.moved == [1]
    again = counterfactual(model, codes, edited, steps=5, samples=3, seed=7)
    assert torch.equal(again.counterfactual, futures.counterfactual)


def test_without_an_edit_both_futures_are_one(model: StructVRNN, codes: Tensor) -> None:
    futures = counterfactual(model, codes, codes.clone(), steps=4, samples=3)
    assert torch.equal(futures.original, futures.counterfactual)
    assert futures.moved == []
    assert not torch.equal(futures.original[0], futures.original[1])


def test_an_edit_changes_every_sample(model: StructVRNN, codes: Tensor) -> None:
    futures = counterfactual(model, codes, move_keypoint(codes, 0, by=(0.5, 0)), steps=2, samples=3)
    assert bool((futures.original != futures.counterfactual).any(dim=-1).all())


def test_actions_are_split_at_the_last_observed_frame(frames: np.ndarray) -> None:
    model = small(actions=2)
    codes = model.encode_sequence(frames[None])[0]
    edited = move_keypoint(codes, 0, by=(0.3, 0))
    actions = np.random.default_rng(0).normal(size=(OBSERVED - 1 + 2, 2))
    futures = counterfactual(model, codes, edited, 2, 3, seed=1, actions=actions)
    belief, _ = model.observe(edited[None], actions[None, : OBSERVED - 1])
    expected = model.imagine(belief, 2, samples=3, actions=actions[None, OBSERVED - 1 :], seed=1)[0]
    assert torch.equal(futures.counterfactual, expected)


def test_rollouts_that_cannot_be_are_refused(model: StructVRNN, frames: np.ndarray, codes: Tensor) -> None:
    with pytest.raises(UsageError, match="steps must be at least 1"):
        counterfactual(model, codes, codes, steps=0)
    with pytest.raises(UsageError, match="samples must be at least 1"):
        counterfactual(model, codes, codes, steps=1, samples=0)
    with pytest.raises(UsageError, match="edited codes must be"):
        counterfactual(model, codes, codes[1:], steps=1)
    with pytest.raises(UsageError, match="edited codes must be finite"):
        counterfactual(model, codes, codes * float("nan"), steps=1)
    with pytest.raises(UsageError, match="has no actions"):
        counterfactual(model, codes, codes, steps=1, actions=np.zeros((4, 2)))
    with pytest.raises(UsageError, match="has no keypoints to move"):
        counterfactual(small({"kind": "vector"}), frames, codes, steps=1)
    with pytest.raises(UsageError, match="deterministic and foretells one future"):
        counterfactual(small(stochastic=False), codes, codes, steps=1, samples=2)
    acting = small(actions=2)
    for actions, message in (
        (None, r"wants actions, \(4, 2\)"),
        (np.zeros((3, 2)), r"actions must be \(4, 2\), not \(3, 2\)"),
        (np.full((4, 2), np.nan), "actions must be finite"),
    ):
        with pytest.raises(UsageError, match=message):
            counterfactual(acting, codes, codes, steps=1, actions=actions)


def test_a_deterministic_model_has_one_future(codes: Tensor) -> None:
    futures = counterfactual(small(stochastic=False), codes, move_keypoint(codes, 0, by=(0.5, 0)), steps=3)
    assert futures.original.shape == (1, 3, 3 * KEYPOINTS)


@pytest.fixture(scope="module")
def futures(model: StructVRNN, codes: Tensor) -> Futures:
    return counterfactual(model, codes, move_keypoint(codes, 1, by=(0.5, -0.4)), steps=3, samples=2)


def test_rendered_frames_are_those_of_the_codes(model: StructVRNN, frames: np.ndarray, futures: Futures) -> None:
    original, edited = render_futures(model, frames[0], futures, sample=1)
    assert original.shape == edited.shape == (OBSERVED + 3, SIZE, SIZE, 3)
    whole = torch.cat([futures.edited, futures.counterfactual[1]])[None]
    apart = np.abs(edited.astype(int) - model.render(frames[:1], whole)[0].astype(int))
    assert apart.max() <= 1
    assert not np.array_equal(original[OBSERVED - 1], edited[OBSERVED - 1])
    with pytest.raises(UsageError, match="no sample 2; 0 to 1"):
        render_futures(model, frames[0], futures, sample=2)


def straight(start: tuple[float, float], end: tuple[float, float], steps: int) -> np.ndarray:
    return np.linspace(start, end, steps)


def pixel(picture: np.ndarray, x: float, y: float) -> list[int]:
    share = (np.array([x, y]) + 1 + MARGIN) / (2 + 2 * MARGIN)
    column, row = (share * len(picture) - 0.5).round().astype(int)
    color: list[int] = picture[row, column].tolist()
    return color


def known_futures() -> Futures:
    """Keypoint 0 goes right along the top and on; edited, it bends down and goes on. Keypoint 1 is absent, 2 stays."""
    steps = 5

    def codes(xy: np.ndarray) -> Tensor:
        absent = np.tile([[-0.5, 0.5, 0.01]], (len(xy), 1))
        still = np.tile([[0.5, 0.8, 1.0]], (len(xy), 1))
        return torch.tensor(np.concatenate([xy, np.ones((len(xy), 1)), absent, still], axis=1), dtype=torch.float32)

    return Futures(
        codes(straight((-0.8, -0.6), (0, -0.6), steps)),
        codes(straight((-0.8, -0.6), (0, 0.2), steps)),
        codes(straight((0.2, -0.6), (0.8, -0.6), steps))[None],
        codes(straight((0.2, 0.2), (0.8, 0.2), steps))[None],
    )


def test_the_picture_has_the_colours_of_the_figure_where_they_belong() -> None:
    picture = draw_futures(known_futures(), 600)
    assert picture.shape == (600, 600, 3)
    assert picture.dtype == np.uint8
    assert pixel(picture, -0.8, -0.6) == [0, 0, 0]  # the cross
    assert pixel(picture, -0.3, -0.6) == list(LIGHT_BLUE)
    assert pixel(picture, -0.4, -0.2) == list(LIGHT_RED)
    assert pixel(picture, 0.5, -0.6) == list(BLUE)
    assert pixel(picture, 0.5, 0.2) == list(RED)
    assert pixel(picture, 0.8 + 0.01, -0.6) == list(BLUE)  # the dots
    assert pixel(picture, 0.8 + 0.01, 0.2) == list(RED)
    assert pixel(picture, 0, -0.2) == [0, 0, 0]  # the arrow
    assert pixel(picture, -0.5, 0.5) == [255, 255, 255]  # the absent one
    assert pixel(picture, 0.5, 0.8) == [0, 0, 0]


def test_absent_keypoints_are_shown_when_they_are_moved() -> None:
    futures = known_futures()
    assert shown_keypoints(futures) == [0, 2]
    edited = move_keypoint(futures.observed, 1, by=(0.1, 0))
    assert shown_keypoints(Futures(futures.observed, edited, futures.original, futures.original)) == [0, 1, 2]


def test_without_an_edit_nothing_is_red_and_there_is_no_arrow() -> None:
    futures = known_futures()
    same = Futures(futures.observed, futures.observed, futures.original, futures.original)
    picture = draw_futures(same, 300).reshape(-1, 3)
    for color in (RED, LIGHT_RED):
        assert not (picture == color).all(axis=1).any()


def test_what_leaves_the_frame_far_is_drawn_without_complaint() -> None:
    futures = known_futures()
    far = Futures(futures.observed, futures.edited, futures.original * 1e6, futures.counterfactual * -1e6)
    assert draw_futures(far, 200).shape == (200, 200, 3)
    with pytest.raises(ValueError, match="size must be at least 64"):
        draw_futures(futures, 63)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_sheets_and_films_are_uint8_of_one_size(model: StructVRNN, frames: np.ndarray, codes: Tensor, steps: int) -> None:
    futures = counterfactual(model, codes, move_keypoint(codes, 1, by=(0.5, -0.4)), steps=steps, samples=2)
    rendered = render_futures(model, frames[0], futures)
    sheet = draw_edit(frames[-1], futures, rendered)
    assert (sheet.dtype, sheet.ndim, sheet.shape[2]) == (np.dtype(np.uint8), 3, 3)
    assert max(sheet.shape) < 3000
    film = list(edit_film(futures, rendered))
    assert len(film) == OBSERVED + steps
    assert len({frame.shape for frame in film}) == 1
