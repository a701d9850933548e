"""Positions in Ms. Pac-Man from RAM against the pixels of each object's colour, with ghosts that take turns to be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixels import boxes, colour_codes, in_pixels, read_ram

from kpagent.envs.making import make_env
from kpagent.envs.objects.ms_pacman import GHOSTS, ms_pacman_objects

COLOURS = {
    "ghost_orange": 0xB47A30,
    "ghost_cyan": 0x54B899,
    "ghost_pink": 0xC659B3,
    "ghost_red": 0xC84848,
    "player": 0xD2A44A,
    "fruit": 0xB83232,
}
BLUE, WHITE = 0x4272C2, 0xD6D6D6
MAZE = slice(0, 171)


def play_maze(steps: int, frameskip: int, idle: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the maze, (N, 171, 160) int32, and RAM, under actions that are kept for a while."""
    env: Any = make_env("ALE/MsPacman-v5", frameskip=frameskip)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(idle):
        env.step(0)
    mazes, ram, action = [], [], 0
    for _ in range(steps):
        if rng.random() < 0.05 * frameskip:
            action = int(rng.integers(env.action_space.n))
        frame, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            frame, _ = env.reset()
        mazes.append(colour_codes(frame[MAZE]))
        ram.append(read_ram(env))
    return np.array(mazes), np.array(ram)


@pytest.fixture(scope="module")
def ms_pacman() -> tuple[np.ndarray, np.ndarray]:
    return play_maze(1800, frameskip=4, idle=0)


def apart(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    return ~(np.abs(places - others) < 12).all(-1)


@pytest.mark.parametrize("name", GHOSTS)
def test_ghosts_are_where_their_colour_is_and_absent_when_it_is_not_their_turn(
    ms_pacman: tuple[np.ndarray, np.ndarray], name: str
) -> None:
    mazes, ram = ms_pacman
    objects = {other: in_pixels(xy) for other, xy in ms_pacman_objects(ram).items()}
    found, truth = objects[name], boxes(mazes == COLOURS[name])
    coloured = ~((mazes == BLUE) | (mazes == WHITE)).any((1, 2))
    np.testing.assert_array_equal(np.isfinite(found[coloured]), np.isfinite(truth[coloured]))
    assert np.isnan(truth[coloured, 0]).mean() > 0.1
    whole = coloured & np.isfinite(truth[:, 0]) & apart(found, objects["player"]) & apart(found, objects["fruit"])
    error = np.abs(found - truth)[whole].max(-1)
    assert len(error) > 300
    assert np.mean(error < 0.01) > 0.85
    assert np.mean(error <= 1) > 0.995
    assert error.max() <= 2


def test_edible_ghosts_are_where_blue_is(ms_pacman: tuple[np.ndarray, np.ndarray]) -> None:
    mazes, ram = ms_pacman
    ghosts = np.stack([in_pixels(ms_pacman_objects(ram)[name]) for name in GHOSTS], axis=1)
    edible = (mazes == BLUE) | (mazes == WHITE)
    checked = 0
    for t in np.flatnonzero(edible.any((1, 2))):
        unexplained = edible[t].copy()
        for name, place in zip(GHOSTS, ghosts[t], strict=True):
            if np.isfinite(place).all():
                x, y = place.round().astype(int)
                box = np.s_[max(y - 6, 0) : y + 7, max(x - 5, 0) : x + 5]
                assert edible[t][box].any() or (mazes[t][box] == COLOURS[name]).any()
                checked += edible[t][box].any()
                # In the tunnel the smaller part is on the other side.
                unexplained[max(y - 6, 0) : y + 7, np.arange(x - 8, x + 8) % 160] = False
        assert not unexplained.any()
    assert checked > 100


@pytest.mark.parametrize("name", ["player", "fruit"])
def test_player_and_fruit_are_where_their_colour_is(ms_pacman: tuple[np.ndarray, np.ndarray], name: str) -> None:
    mazes, ram = ms_pacman
    found, truth = in_pixels(ms_pacman_objects(ram)[name]), boxes(mazes == COLOURS[name])
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(truth))
    seen = np.isfinite(truth).all(-1)
    assert seen.sum() > 100
    # An open mouth leaves out up to two columns or rows on one side.
    assert np.abs(found - truth)[seen].max() <= 1.5


def test_every_frame_of_the_emulator_shows_the_ghosts_whose_turn_it_is() -> None:
    mazes, ram = play_maze(500, frameskip=1, idle=300)
    objects = {name: in_pixels(xy) for name, xy in ms_pacman_objects(ram).items()}
    coloured = ~((mazes == BLUE) | (mazes == WHITE)).any((1, 2))
    for name in GHOSTS:
        found, truth = objects[name], boxes(mazes == COLOURS[name])
        assert (np.isfinite(found[:, 0]) == np.isfinite(truth[:, 0]))[coloured].mean() > 0.99
        both = coloured & np.isfinite(found[:, 0]) & np.isfinite(truth[:, 0]) & apart(found, objects["player"])
        assert both.sum() > 50
        assert np.abs(found - truth)[both].max() <= 2


@pytest.mark.parametrize("left", [1, 148, 152, 154, 155, 158, 159])
def test_in_the_tunnel_the_larger_part_counts(left: int) -> None:
    env: Any = make_env("ALE/MsPacman-v5", frameskip=1)
    env.reset(seed=0)
    for _ in range(300):
        env.step(0)
    # Cell 39 stops the game; ghosts other than the red one go into the pen.
    for cell, value in {39: 36, 9: left + 12, 15: 50, 6: 88, 7: 88, 8: 88, 12: 80, 13: 80, 14: 80}.items():
        env.unwrapped.ale.setRAM(cell, value)
    env.step(0)
    maze = colour_codes(env.step(0)[0][MAZE])
    columns = np.flatnonzero((maze == COLOURS["ghost_red"]).any(0))
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    larger = max(parts, key=len)
    found = in_pixels(ms_pacman_objects(read_ram(env))["ghost_red"])
    assert found[0] == pytest.approx((larger[0] + larger[-1] + 1) / 2, abs=0.5)


def test_batch_axes_are_kept_and_coordinates_stay_inside(ms_pacman: tuple[np.ndarray, np.ndarray]) -> None:
    _, ram = ms_pacman
    flat, folded = ms_pacman_objects(ram[:600]), ms_pacman_objects(ram[:600].reshape(20, 30, 128))
    for name, xy in flat.items():
        np.testing.assert_array_equal(folded[name].reshape(600, 2), xy)
        assert not (np.abs(xy) > 1).any()
        np.testing.assert_array_equal(ms_pacman_objects(ram[0])[name], xy[0])
