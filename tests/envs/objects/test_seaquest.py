"""Positions in Seaquest from RAM against the pixels of each object's colour, at several difficulties, with endless air."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixels import any_colour, in_pixels, read_ram

from kpagent.envs.making import make_env
from kpagent.envs.objects.seaquest import seaquest_objects

SHARKS_AND_SUBMARINES = [(92, 186, 92), (72, 160, 72), (198, 108, 58), (160, 171, 79), (198, 89, 179), (170, 170, 170)]
PLAYER = [(187, 187, 53)]
DIVERS_AND_MISSILES = [(66, 72, 200)]
SEA = slice(58, 158)


@pytest.fixture(scope="module")
def seaquest() -> tuple[np.ndarray, np.ndarray]:
    env: Any = make_env("ALE/Seaquest-v5")
    rng = np.random.default_rng(0)
    frames, ram, action = [], [], 0
    env.reset(seed=0)
    for step in range(1600):
        if step % 200 == 0:
            # Cells 61 and 60 say how hard the enemies' formations are, and whether one patrols the surface.
            env.unwrapped.ale.setRAM(61, step // 200)
            env.unwrapped.ale.setRAM(60, step // 400)
        env.unwrapped.ale.setRAM(102, 64)
        env.unwrapped.ale.setRAM(59, 3)
        if rng.random() < 0.2:
            action = int(rng.integers(env.action_space.n))
        frames.append(env.step(action)[0])
        ram.append(read_ram(env))
    return np.array(frames), np.array(ram)


def centre_near(mask: np.ndarray, place: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Centre of the box round what is marked no further than `reach` columns and rows from a place; NaN if nothing is."""
    x, y = place
    left, top = max(int(x) - reach[0], 0), max(int(y) - reach[1], 0)
    rows, columns = np.nonzero(mask[top : int(y) + reach[1] + 1, left : int(x) + reach[0] + 1])
    if not len(rows):
        return np.full(2, np.nan)
    return np.array([left + (columns.min() + columns.max() + 1) / 2, top + (rows.min() + rows.max() + 1) / 2])


def errors(mask: np.ndarray, places: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    return np.array(
        [centre_near(mask[t], places[t], reach) - places[t] for t in np.flatnonzero(np.isfinite(places).all(-1))]
    )


def test_enemies_are_where_their_colours_are_and_nowhere_else(seaquest: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = seaquest
    mask = any_colour(frames, SHARKS_AND_SUBMARINES)
    mask[:, : SEA.start] = mask[:, SEA.stop :] = False
    unexplained = mask.copy()
    objects = {name: in_pixels(xy) for name, xy in seaquest_objects(ram).items()}
    for lane in range(4):
        for slot in range(3):
            places = objects[f"enemy_{lane}_{slot}"]
            assert np.isfinite(places).all(-1).sum() > 100
            # Eight columns to the next enemy of a group: a reach of seven from the centre sees no other.
            found = errors(mask, places, (7, 8))
            hidden = np.isnan(found).any(-1)
            assert hidden.mean() < 0.02
            assert np.median(np.abs(found[~hidden])) <= 0.5
            assert np.percentile(np.abs(found[~hidden]), 98) <= 1
            for t in np.flatnonzero(np.isfinite(places).all(-1)):
                x, y = places[t].astype(int)
                unexplained[t, y - 6 : y + 7, max(x - 4, 0) : x + 5] = False
    assert not unexplained.any()


def test_the_player_and_its_missile_are_where_their_colour_is(seaquest: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = seaquest
    mask = any_colour(frames, PLAYER)
    mask[:, :46] = mask[:, SEA.stop :] = False
    objects = {name: in_pixels(xy) for name, xy in seaquest_objects(ram).items()}
    player, missile = objects["player"], objects["player_missile"]
    unhurt = ram[:, 105] == 0
    np.testing.assert_array_equal(np.isfinite(player).all(-1)[unhurt], True)
    apart = ~(np.abs(player - missile)[:, 0] < 20)
    found = errors(mask[unhurt & apart], player[unhurt & apart], (9, 7))
    assert np.nanmax(np.abs(found)) <= 2
    assert np.median(np.abs(found), axis=0).max() <= 0.5
    shot = np.isfinite(missile).all(-1) & apart
    assert shot.sum() > 100
    assert np.abs(errors(mask[shot], missile[shot], (6, 1))).max() <= 0.5
    # And no shot is missed: right of the player and left of it, yellow is a missile.
    for t in np.flatnonzero(unhurt & np.isnan(missile).any(-1)):
        assert not (mask[t] & (np.abs(np.arange(160) + 0.5 - player[t, 0]) > 9)).any()


def test_a_player_that_was_hit_counts_until_its_explosion_is_over(seaquest: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = seaquest
    player = in_pixels(seaquest_objects(ram)["player"])
    hit = ram[:, 105]
    assert np.isnan(player[(hit > 0) & (hit < 7)]).all()
    flash = hit == 15
    assert flash.sum() > 5
    assert np.nanmax(np.abs(errors(any_colour(frames[flash], [(236, 236, 236)]), player[flash], (9, 7)))) <= 2
    # The waves and the edges cut explosions off.
    bang = (hit >= 11) & (hit < 15) & (player[:, 0] > 16) & (player[:, 0] < 152) & (player[:, 1] > 60)
    assert np.nanmax(np.abs(errors(any_colour(frames[bang], [(117, 181, 239)]), player[bang], (10, 9)))) <= 2


@pytest.mark.parametrize(("name", "reach"), [("diver", (5, 8)), ("enemy_missile", (4, 3))])
def test_divers_and_missiles_are_where_their_colour_is(
    seaquest: tuple[np.ndarray, np.ndarray], name: str, reach: tuple[int, int]
) -> None:
    frames, ram = seaquest
    mask = any_colour(frames, DIVERS_AND_MISSILES)
    objects = {key: in_pixels(xy) for key, xy in seaquest_objects(ram).items()}
    found = np.concatenate([errors(mask, objects[f"{name}_{lane}"], reach) for lane in range(4)])
    assert len(found) > 100
    # A missile is first behind its submarine, and a diver's legs are now and then behind a shark.
    assert np.isnan(found).any(-1).mean() < 0.08
    found = np.abs(found[np.isfinite(found).all(-1)])
    assert np.median(found, axis=0).max() <= 0.5
    assert np.percentile(found, 90) <= 1


def test_the_submarine_of_the_surface_is_where_its_colour_is(seaquest: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = seaquest
    mask = any_colour(frames, [(170, 170, 170)])[:, 46:53]
    place = in_pixels(seaquest_objects(ram)["surface_submarine"])
    seen = np.isfinite(place).all(-1)
    np.testing.assert_array_equal(seen, mask.any((1, 2)))
    assert seen.sum() > 20
    for t in np.flatnonzero(seen):
        columns = np.flatnonzero(mask[t].any(0))
        assert abs((columns.min() + columns.max() + 1) / 2 - place[t, 0]) <= 0.5
        assert place[t, 1] == pytest.approx(49.5)


def test_batch_axes_are_kept_and_coordinates_stay_inside(seaquest: tuple[np.ndarray, np.ndarray]) -> None:
    ram = seaquest[1][:600]
    folded = seaquest_objects(ram.reshape(20, 30, 128))
    for name, xy in seaquest_objects(ram).items():
        np.testing.assert_array_equal(folded[name].reshape(600, 2), xy)
        assert not (np.abs(xy) > 1).any()
        assert seaquest_objects(ram[0])[name].shape == (2,)
