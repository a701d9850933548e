"""Positions in the first room of Montezuma's Revenge from RAM against the pixels of each object's colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixels import any_colour, centres_of_colour, in_pixels, play, read_ram

from kpagent.envs.making import make_env
from kpagent.envs.objects.montezuma_revenge import montezuma_revenge_objects

WHITE, YELLOW = (236, 236, 236), (232, 204, 99)
CLOTHES_AND_SKIN = [(200, 72, 72), (228, 111, 111), (240, 128, 128), (210, 182, 86)]


@pytest.fixture(scope="module")
def montezuma() -> tuple[np.ndarray, np.ndarray]:
    return play("ALE/MontezumaRevenge-v5", 1500)


def player_box(frames: np.ndarray) -> np.ndarray:
    """(N, 2) centres, in pixels, of the box round all colours of the player."""
    centres = []
    for marked in any_colour(frames[:, 50:], CLOTHES_AND_SKIN):
        rows, columns = np.nonzero(marked)
        centres.append(((columns.min() + columns.max() + 1) / 2, 50 + (rows.min() + rows.max() + 1) / 2))
    return np.array(centres)


def test_the_player_is_where_its_colours_are(montezuma: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = montezuma
    error = np.abs(in_pixels(montezuma_revenge_objects(ram)["player"]) - player_box(frames))
    assert np.median(error, axis=0).max() <= 0.5
    assert np.percentile(error, 98, axis=0).max() <= 1.5
    assert error.max() <= 8


def test_jumps_and_falls_are_followed_by_the_row(montezuma: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = montezuma
    in_the_air = ram[:, 53] == 6
    assert in_the_air.sum() > 100
    error = in_pixels(montezuma_revenge_objects(ram)["player"])[:, 1] - player_box(frames)[:, 1]
    assert np.abs(error[in_the_air]).max() <= 0.5 + 1e-9


def test_skull_and_key_are_where_their_colours_are(montezuma: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = montezuma
    objects = montezuma_revenge_objects(ram)
    skull = np.abs(in_pixels(objects["skull"]) - centres_of_colour(frames, WHITE, rows=(150, 180)))
    assert skull.max() <= 1
    assert np.ptp(objects["skull"][:, 0]) > 0.5
    key = centres_of_colour(frames, YELLOW, rows=(97, 120), columns=(8, 40))
    np.testing.assert_allclose(in_pixels(objects["key"]), key, atol=1e-9)


def test_a_skull_that_struck_is_seen_until_the_player_comes_back() -> None:
    env: Any = make_env("ALE/MontezumaRevenge-v5")
    env.reset(seed=0)
    for _ in range(10):
        env.step(0)
    # The player is put on the floor in front of the skull.
    env.unwrapped.ale.setRAM(42, int(read_ram(env)[47]) + 33)
    env.unwrapped.ale.setRAM(43, 148)
    seen = []
    for _ in range(30):
        frame = env.step(0)[0]
        place = in_pixels(montezuma_revenge_objects(read_ram(env))["skull"])
        truth = centres_of_colour(frame[None], WHITE, rows=(150, 180))[0]
        assert np.isfinite(place).all() == np.isfinite(truth).all()
        seen.append(bool(np.isfinite(truth).all()))
    assert seen[0]
    assert not seen[-1]


@pytest.mark.parametrize("room", [0, 5, 9, 15, 19])
def test_other_rooms_have_the_player_to_one_row(room: int) -> None:
    env: Any = make_env("ALE/MontezumaRevenge-v5")
    env.reset(seed=0)
    for _ in range(5):
        env.step(0)
    env.unwrapped.ale.setRAM(3, room)
    for _ in range(8):
        frame = env.step(0)[0]
    objects = montezuma_revenge_objects(read_ram(env))
    assert np.abs(in_pixels(objects["player"]) - player_box(frame[None])[0]).max() <= 1
    assert np.isfinite(objects["skull"]).all() == (room == 5)


def test_batch_axes_are_kept_and_coordinates_stay_inside(montezuma: tuple[np.ndarray, np.ndarray]) -> None:
    ram = montezuma[1][:600]
    folded = montezuma_revenge_objects(ram.reshape(20, 30, 128))
    for name, xy in montezuma_revenge_objects(ram).items():
        np.testing.assert_array_equal(folded[name].reshape(600, 2), xy)
        assert not (np.abs(xy) > 1).any()
        assert montezuma_revenge_objects(ram[0])[name].shape == (2,)
