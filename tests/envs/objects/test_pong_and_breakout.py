"""Positions from RAM against the pixels of each object's colour, on frames of a policy that moves about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kpagent.envs.objects.breakout import breakout_objects
from kpagent.envs.objects.pong import pong_objects
from kpagent.envs.making import make_env


def play(env_id: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and RAM under actions that are kept for a while, so that paddles reach both ends."""
    env: Any = make_env(env_id)
    rng = np.random.default_rng(0)
    frames, ram, action = [env.reset(seed=0)[0]], [read_ram(env)], 0
    for _ in range(steps):
        if rng.random() < 0.2:
            action = int(rng.integers(env.action_space.n))
        frame, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            frame, _ = env.reset()
        frames.append(frame)
        ram.append(read_ram(env))
    return np.array(frames), np.array(ram)


def read_ram(env: Any) -> np.ndarray:
    return env.unwrapped.ale.getRAM().copy()


def centres_of_colour(
    frames: np.ndarray, colour: tuple[int, int, int], rows: tuple[int, int], columns: tuple[int, int] = (0, 160)
) -> np.ndarray:
    """(N, 2) centres, in pixels from the top left corner, of the box round a colour; NaN where there is none."""
    mask = (frames[:, rows[0] : rows[1], columns[0] : columns[1]] == np.array(colour, np.uint8)).all(-1)
    centres = np.full((len(frames), 2), np.nan)
    for index, found in enumerate(mask):
        if found.any():
            y, x = np.nonzero(found)
            centres[index] = columns[0] + (x.min() + x.max() + 1) / 2, rows[0] + (y.min() + y.max() + 1) / 2
    return centres


def in_pixels(xy: np.ndarray) -> np.ndarray:
    return (xy + 1) / 2 * (160, 210)


def assert_agree(found: np.ndarray, truth: np.ndarray) -> None:
    present, seen = np.isfinite(found).all(-1), np.isfinite(truth).all(-1)
    assert (present == seen).mean() > 0.99
    both = present & seen
    assert both.sum() > 100
    error = np.abs(found - truth)[both]
    assert np.median(error) < 0.5
    assert error.max() <= 1.5
    assert np.percentile(error, 85) < 0.5


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
