"""Positions in Frostbite from RAM against the pixels of each object's colour, in six of the first eight levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixels import boxes, colour_codes, in_pixels, read_ram

from kpagent.envs.making import make_env
from kpagent.envs.objects.frostbite import frostbite_objects

PLAYER = (0xA26221, 0xC66C3A, 0xA2A22A)
ICE = (0xD6D6D6, 0x548AD2)
CREATURES = (0x8490FC, 0x6FD26F, 0xD5824A, 0xD2D240)
BEAR = (0x6F6F6F, 0xD6D6D6)
LEVELS = (0, 1, 3, 4, 5, 7)
STEPS = 150


@pytest.fixture(scope="module")
def frostbite() -> tuple[np.ndarray, np.ndarray]:
    """Colours and RAM of each level in turn, (levels * steps, ...), at rest, then under actions kept for a while."""
    env: Any = make_env("ALE/Frostbite-v5")
    rng = np.random.default_rng(0)
    frames, ram, action = [], [], 0
    for level in LEVELS:
        env.reset(seed=0)
        for _ in range(40):
            env.step(0)
        # Cell 75 is the level; 113 and 103 say that a life has just been lost, at which the game sets the level up.
        for cell, value in {75: level, 113: 32, 103: 0}.items():
            env.unwrapped.ale.setRAM(cell, value)
        # Play begins after a pause, with all creatures beyond the border and a long way off.
        for _ in range(20):
            env.step(0)
        for cell, value in zip(range(96, 100), (230, 20, 80, 140), strict=True):
            env.unwrapped.ale.setRAM(cell, value)
        for step in range(STEPS):
            if step < STEPS // 3:
                action = 0
            elif rng.random() < 0.2:
                action = int(rng.integers(env.action_space.n))
            frames.append(colour_codes(env.step(action)[0]))
            ram.append(read_ram(env))
        assert ram[-1][75] == level
    return np.array(frames), np.array(ram)


def runs(columns: Any) -> list[np.ndarray]:
    """The columns that are marked, one array for each run without a gap."""
    marked = np.flatnonzero(columns)
    return np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1) if len(marked) else []


@pytest.mark.parametrize("row", range(4))
def test_chains_of_floes_are_where_the_ice_is_whole_or_split(frostbite: tuple[np.ndarray, np.ndarray], row: int) -> None:
    frames, ram = frostbite
    ice = np.isin(frames[:, 96 + 26 * row : 103 + 26 * row], ICE)
    found = [in_pixels(frostbite_objects(ram)[f"floe_{row}_{index}"]) for index in range(3)]
    inside = ~ice[:, :, 8].any(1) & ~ice[:, :, 159].any(1)
    for level in range(len(LEVELS)):
        here = inside & (np.arange(len(ram)) // STEPS == level)
        assert here.sum() > 20
        middle = boxes(ice[here]) + np.array([0, 96 + 26 * row])
        for index in range(3):
            error = np.abs(found[index][here] - middle - np.array([32 * (index - 1), 0]))
            assert np.median(error) == 0
            # The player or a creature can hide an end of the chain.
            assert (error <= 1).mean() > 0.95


def test_a_floe_keeps_its_index_all_the_way_round_and_the_larger_part_of_one_cut_in_two_counts() -> None:
    env: Any = make_env("ALE/Frostbite-v5", frameskip=1)
    env.reset(seed=0)
    for _ in range(150):
        env.step(0)
    for start in range(160):
        for cell in range(31, 35):
            env.unwrapped.ale.setRAM(cell, start)
        frame = colour_codes(env.step(0)[0])
        ram = read_ram(env)
        objects = frostbite_objects(ram)
        ice = np.isin(frame, ICE)
        for row in range(4):
            pieces = runs(ice[96 + 26 * row : 103 + 26 * row].any(0))
            if len(pieces) == 4 and len(pieces[0]) == len(pieces[3]):
                continue
            if len(pieces) == 4:
                # The outer two are one floe.
                pieces.pop(0 if len(pieces[0]) < len(pieces[3]) else 3)
            assert len(pieces) == 3
            centres = [(piece[0] + piece[-1] + 1) / 2 for piece in pieces]
            found = [in_pixels(objects[f"floe_{row}_{index}"])[0] for index in range(3)]
            np.testing.assert_allclose(sorted(found), centres, atol=0.01)
            for index, x in enumerate(found):
                uncut = int(ram[34 - row]) + 4 + 32 * index
                assert abs((x - uncut + 80) % 160 - 80) <= 8


def test_creatures_are_where_their_colours_are_and_nowhere_else(frostbite: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = frostbite
    objects = {name: in_pixels(xy) for name, xy in frostbite_objects(ram).items()}
    errors: list[np.ndarray] = []
    for lane in range(4):
        top = 82 + 26 * lane
        marked = np.isin(frames[:, top : top + 8], CREATURES)
        unexplained = marked.copy()
        for index in range(3):
            places = objects[f"creature_{lane}_{index}"]
            assert np.isfinite(places).all(-1).sum() > 10
            for t in np.flatnonzero(np.isfinite(places).all(-1)):
                x = int(places[t, 0])
                near = np.s_[:, max(x - 5, 0) : x + 5]
                rows, columns = np.nonzero(marked[t][near])
                unexplained[t][near] = False
                if 13 < x < 155:
                    centre = max(x - 5, 0) + (columns.min() + columns.max() + 1) / 2, top + (rows.min() + rows.max() + 1) / 2
                    errors.append(np.abs(np.array(centre) - places[t]))
        assert not unexplained.any()
    assert np.median(errors) <= 0.5
    assert np.mean(np.array(errors) <= 1) > 0.99


def test_the_player_is_where_its_colours_are_also_when_it_sinks(frostbite: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = frostbite
    found = in_pixels(frostbite_objects(ram)["player"])
    marked = np.isin(frames, PLAYER)
    marked[:, :47] = marked[:, 186:] = False
    truth = boxes(marked)
    present, seen = np.isfinite(found).all(-1), np.isfinite(truth).all(-1)
    np.testing.assert_array_equal(present, seen)
    assert 0.5 < present.mean() < 0.95
    sinking = (ram[:, 107] > 0) & present
    assert sinking.sum() > 20
    assert np.median(np.abs(found - truth)[present]) <= 0.5
    # Without its grey coat and boots the box of a walking player is up to two rows short.
    assert (np.abs(found - truth)[present & ~sinking] <= 1.5).mean() > 0.98
    # Of a sinking one the coat is all that is seen of some rows.
    assert np.abs(found - truth)[sinking].max() <= 4


def test_the_bear_is_where_its_colour_is_from_the_fourth_level_on(frostbite: tuple[np.ndarray, np.ndarray]) -> None:
    frames, ram = frostbite
    found = in_pixels(frostbite_objects(ram)["bear"])
    marked = np.isin(frames, BEAR)
    marked[:, :57] = marked[:, 75:] = False
    truth = boxes(marked)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(truth))
    assert np.isnan(found[: 2 * STEPS]).all()
    assert np.isfinite(found[2 * STEPS :]).all()
    assert np.median(np.abs(found - truth)[2 * STEPS :]) <= 0.5
    assert np.mean(np.abs(found - truth)[2 * STEPS :] <= 1) > 0.98


def test_a_player_in_the_igloo_is_absent() -> None:
    env: Any = make_env("ALE/Frostbite-v5", frameskip=1)
    env.reset(seed=0)
    for _ in range(150):
        env.step(0)
    for cell, value in {77: 15, 102: 123, 100: 27}.items():
        env.unwrapped.ale.setRAM(cell, value)
    heights = []
    for _ in range(12):
        frame = env.step(2)[0]
        found = in_pixels(frostbite_objects(read_ram(env))["player"])
        marked = np.isin(colour_codes(frame[47:186]), PLAYER)
        assert np.isfinite(found).all() == marked.any()
        heights.append(found[1])
    assert (np.diff(heights[:8]) <= 0).all()
    assert np.isnan(heights[-1])


def test_batch_axes_are_kept_and_coordinates_stay_inside(frostbite: tuple[np.ndarray, np.ndarray]) -> None:
    _, ram = frostbite
    flat, folded = frostbite_objects(ram[:600]), frostbite_objects(ram[:600].reshape(20, 30, 128))
    for name, xy in flat.items():
        np.testing.assert_array_equal(folded[name].reshape(600, 2), xy)
        assert not (np.abs(xy) > 1).any()
        np.testing.assert_array_equal(frostbite_objects(ram[0])[name], xy[0])
