"""The objects of Ms. Pac-Man, read from its RAM: cells after OCAtari (Delfosse et al. 2023).

How ghosts move and take turns to be drawn is read from the game's own code and checked against pixels.
"""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN
from kpagent.envs.objects.screen import cells, larger_part, visible_centre

GHOSTS = ("ghost_orange", "ghost_cyan", "ghost_pink", "ghost_red")
"""The ghosts in the order of their cells."""

_MAZE = (0, 171, 0, SCREEN[1])
_BAND_ROWS = 12
_BANDS = 14
_DEATH_SPIN = 78
_RUNNING = 255
_EYES, _ENTERING, _IN_PEN = 4, 6, 7


def ms_pacman_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of the player, the four ghosts and the fruit of Ms. Pac-Man, those of them that the frame shows.

    All are 8x10 pixels; a ghost that has been eaten is a pair of eyes, 8x5. A ghost is the same object when it is blue. One
    in the tunnel is seen on both sides: its place is the centre of the larger part.

    The console has one sprite for four ghosts and one for player and fruit. Where they come close to each other's rows the
    game shows them in turn, frame by frame: one whose turn it is not is absent. What a frame shows was chosen at the end of
    the one before, so the last step is taken back: exactly nearly always, else within two pixels. This holds for the frames
    that `make_env` shows; where idle frames came first (`make_atari_vector`), player and fruit can be two pixels ahead.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player`, `ghost_orange`, `ghost_cyan`, `ghost_pink`, `ghost_red` and `fruit`, each (..., 2) float64: (x, y) in
        [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    turn = (cell[..., 30] - 1) % 256
    x, y = _ghosts_before_last_step(cell)
    left = larger_part(x - 12, 8)
    eyes = np.isin(_mode(cell), (_EYES, _ENTERING))[..., None]
    place = np.where(eyes, visible_centre(left, y + 2, 8, 5, _MAZE), visible_centre(left, y + 1, 8, 10, _MAZE))
    dying = (cell[..., 39] >= _DEATH_SPIN) & (cell[..., 39] < _RUNNING)
    drawn = _ghosts_drawn(y // _BAND_ROWS, turn, cell[..., 19]) & ~dying[..., None]
    ghosts = np.where(drawn[..., None], place, np.nan)

    fruit_out = cell[..., 11] > 0
    share = fruit_out & (np.abs((cell[..., 16] + 6) // _BAND_ROWS - (cell[..., 17] + 6) // _BAND_ROWS) <= 1)
    player = visible_centre(larger_part(cell[..., 10] - 12, 8), cell[..., 16] + 1, 8, 10, _MAZE)
    fruit = visible_centre(larger_part(cell[..., 11] - 12, 8), cell[..., 17] + 1, 8, 10, _MAZE)
    return {
        "player": np.where((share & (turn % 2 == 1))[..., None], np.nan, player),
        **{name: ghosts[..., index, :] for index, name in enumerate(GHOSTS)},
        "fruit": np.where((fruit_out & ~(share & (turn % 2 == 0)))[..., None], fruit, np.nan),
    }


def _mode(cell: np.ndarray) -> np.ndarray:
    """(..., 4) what each ghost is doing: 4 and 6 eyes on the way to the pen and into it, 7 in the pen, else in the maze."""
    return cell[..., 1:5] // 16 % 8


def _ghosts_drawn(band: np.ndarray, turn: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which ghosts the game chooses to draw, from the bands of rows that they are in.

    From the bottom up, the ghosts of a band and of the one above share one sprite and take turns; the sprite is free again
    two bands above the ghost that has it.

    Args:
        band: (..., 4) of each ghost.
        turn: (...) the game's frame counter.
        last: (...) the last ghost that takes part.

    Returns:
        (..., 4) bool.
    """
    taking_part = np.arange(len(GHOSTS)) <= last[..., None]
    turns = np.stack([np.zeros_like(turn), np.zeros_like(turn), turn % 2, turn % 64 % 3, turn % 4], axis=-1)
    drawn = np.zeros(band.shape, bool)
    free = np.full(turn.shape, _BANDS - 1)
    for current in range(_BANDS - 1, -1, -1):
        here, above = (band == current) & taking_part, (band == current - 1) & taking_part
        sharing = here.sum(-1) + above.sum(-1)
        chosen = np.take_along_axis(turns, sharing[..., None], axis=-1)[..., 0]
        place = np.where(here, _later(here), here.sum(-1, keepdims=True) + _later(above))
        used = (free == current) & here.any(-1)
        drawn |= (here | above) & (place == chosen[..., None]) & used[..., None]
        next_free = np.where(chosen < here.sum(-1), current - 2, current - 3)
        free = np.where(used, next_free, np.where(free == current, current - 1, free))
    return drawn


def _later(mask: np.ndarray) -> np.ndarray:
    """(..., 4) how many ghosts of the mask come after each: the game counts them from the last."""
    return mask[..., ::-1].cumsum(-1)[..., ::-1] - mask


def _ghosts_before_last_step(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 4) columns and rows of the ghosts in the game's coordinates, before the steps of the frame that has just ended.

    Every other frame moves the ghosts, by one or two pixels each. Where a ghost took a turn between two pixels, the one
    before the turn is taken back along the way that it has turned to.
    """
    x, y, state, mode = cell[..., 6:10], cell[..., 12:16], cell[..., 1:5], _mode(cell)
    horizontal = state % 2 == 1
    steps = _ghost_steps(cell, horizontal)

    # Only one ghost a frame may choose its way at a crossing; cell 22 counts below zero the steps that others were denied.
    column = x % 8 == np.select([x < 88, x < 96], [2, 0], 6)
    crossing = np.where(horizontal, column, y % _BAND_ROWS == 2) & (mode != _IN_PEN) & (mode != _ENTERING)
    denied = np.where(cell[..., 22] >= 128, 256 - cell[..., 22], 0)[..., None]
    steps = np.maximum(steps - np.where(crossing, denied, 0), 0)

    across, down = _direction(x, y, state, mode)
    return (x - steps * across - 12) % SCREEN[1] + 12, y - steps * down


def _ghost_steps(cell: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    """(..., 4) pixels that each ghost went in the frame that has just ended, were it free to."""
    count, state = cell[..., 30, None], cell[..., 1:5]
    edible = state >= 128
    first_maze_rests = (cell[..., 123, None] < 16) & (count % 32 == 31)
    frightened_rests = edible & horizontal & (count % 8 == 1)
    running = (cell[..., 39, None] == _RUNNING) & (count % 2 == 1)
    moved = running & ~first_maze_rests & ~frightened_rests
    # Each ghost has its own frames of double speed, and all go twice as often up and down, where a step is shorter.
    of_its_own = np.concatenate(
        [np.zeros_like(count, bool), count % 16 == 7, count % 8 == 3, np.isin(count % 16, (1, 9, 13))], axis=-1
    )
    up_or_down = ~horizontal & ((count + np.arange(len(GHOSTS))) // 2 % 2 == 1)
    twice = ~edible & ((_mode(cell) == _EYES) | of_its_own | up_or_down)
    return np.where(moved, 1 + twice, 0)


def _direction(x: np.ndarray, y: np.ndarray, state: np.ndarray, mode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 4) the pixels right and down that a ghost's last step went: -1, 0 or 1."""
    across, down = np.array([0, 1, 0, -1])[state % 4], np.array([-1, 0, 1, 0])[state % 4]
    in_pen, leaving = mode == _IN_PEN, state // 8 % 2 == 1
    # In the pen ghosts walk round its border against the clock, until they leave through the roof.
    walking = in_pen & ~leaving
    roof, floor = walking & (y == 66) & (x < 94), walking & (y == 80) & (x > 82)
    left_wall = walking & ~roof & (x == 82)
    across = np.select([roof, floor, in_pen | (mode == _ENTERING)], [-1, 1, 0], across)
    down = np.select([roof | floor, left_wall | (mode == _ENTERING), in_pen], [0, 1, -1], down)
    return across, down
