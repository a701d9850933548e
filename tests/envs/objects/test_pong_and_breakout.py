"""Positions from RAM against the pixels of each object's colour, on frames of a policy that moves about."""

from __future__ import annotations

import numpy as np
import pytest
from pixels import assert_agree, centres_of_colour, in_pixels, play

from kpagent.envs.objects.breakout import breakout_objects
from kpagent.envs.objects.pong import pong_objects


@pytest.fixture(scope="module")
def pong() -> tuple[np.ndarray, np.ndarray]:
    return play("ALE/Pong-v5", 1500)


@pytest.mark.parametrize(
    ("name", "colour"), [("player", (92, 186, 92)), ("enemy", (213, 130, 74)), ("ball", (236, 236, 236))]
)
def test_objects_of_pong_are_where_their_colour_is(
    pong: tuple[np.ndarray, np.ndarray], name: str, colour: tuple[int, int, int]
) -> None:
    frames, ram = pong
    assert_agree(in_pixels(pong_objects(ram)[name]), centres_of_colour(frames, colour, rows=(34, 194)))


def test_objects_of_breakout_are_where_their_colour_is() -> None:
    frames, ram = play("ALE/Breakout-v5", 1500)
    objects = {name: in_pixels(xy) for name, xy in breakout_objects(ram).items()}
    red = (200, 72, 72)
    # Paddle, ball and upper bricks share a colour: each is looked for where it is alone.
    low_ball = objects["ball"][:, 1] > 187
    paddle = centres_of_colour(frames, red, rows=(189, 193), columns=(8, 152))
    assert_agree(objects["paddle"][~low_ball], paddle[~low_ball])
    ball = centres_of_colour(frames, red, rows=(93, 189), columns=(8, 152))
    between = (objects["ball"][:, 1] > 95) & (objects["ball"][:, 1] < 187)
    elsewhere = np.isfinite(objects["ball"][:, 1]) & ~between
    assert_agree(objects["ball"][~elsewhere], ball[~elsewhere])


def test_batch_axes_are_kept_and_coordinates_stay_inside(pong: tuple[np.ndarray, np.ndarray]) -> None:
    _, ram = pong
    for read in (pong_objects, breakout_objects):
        flat, folded = read(ram[:600]), read(ram[:600].reshape(20, 30, 128))
        for name, xy in flat.items():
            np.testing.assert_array_equal(folded[name].reshape(600, 2), xy)
            assert not (np.abs(xy) > 1).any()
        assert read(ram[0])[name].shape == (2,)


@pytest.mark.parametrize("bad", [np.zeros((2, 128)), np.zeros((2, 127), np.uint8)])
def test_what_is_no_ram_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="128"):
        pong_objects(bad)
