"""Where the objects of an Atari game are, read from its RAM: the truth that keypoints are measured against.

Positions are those of the raw 210x160 frame that belongs to the RAM, no maximum over two frames. They were found, and are
tested, by comparing RAM with the pixels of each object's colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kpagent.envs.atari import SCREEN


def pong_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of the player's paddle (right), the enemy's (left) and the ball of Pong.

    Paddles are 4x16 pixels and the ball 2x4; the playfield, rows 34 to 193, cuts them off.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player`, `enemy` and `ball`, each (..., 2) float64: (x, y) in [-1, 1], NaN where the object is not on the screen.
    """
    cells = _cells(ram)
    field = (34, 194, 0, 160)
    # The player's paddle is drawn on every other row only.
    return {
        "player": _visible_centre(cells[..., 46] - 48, (cells[..., 51] - 13) // 2 * 2, 4, 16, field),
        "enemy": _visible_centre(cells[..., 45] - 48, cells[..., 50] - 15, 4, 16, field),
        "ball": _visible_centre(cells[..., 49] - 49, cells[..., 54] - 14, 2, 4, field),
    }


def breakout_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of the paddle and the ball of Breakout.

    The paddle is 16x4 pixels and the ball 2x4; the walls (columns 8 and 152, row 32) and row 196 cut them off. Among the
    bricks the ball takes the colour of the row that it is in.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `paddle` and `ball`, each (..., 2) float64: (x, y) in [-1, 1], NaN where the object is not on the screen.
    """
    cells = _cells(ram)
    field = (32, 196, 8, 152)
    paddle_left = cells[..., 72] - 47
    ball_top = np.where(cells[..., 101] > 0, cells[..., 101] + 9, SCREEN[0])
    return {
        "paddle": _visible_centre(paddle_left, np.full_like(paddle_left, 189), 16, 4, field),
        "ball": _visible_centre(cells[..., 99] - 49, ball_top, 2, 4, field),
    }


ATARI_OBJECTS: Mapping[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "ALE/Pong-v5": pong_objects,
    "ALE/Breakout-v5": breakout_objects,
}
"""The function that reads each game, by environment id."""


def _cells(ram: np.ndarray) -> np.ndarray:
    if ram.dtype != np.uint8 or ram.shape[-1:] != (128,):
        raise ValueError(f"ram must be (..., 128) uint8, not {ram.shape} {ram.dtype}")
    # Bytes would wrap round below zero.
    return ram.astype(np.int64)


def _visible_centre(
    left: np.ndarray, top: np.ndarray, width: int, height: int, field: tuple[int, int, int, int]
) -> np.ndarray:
    first_row, end_row, first_column, end_column = field
    right, bottom = np.minimum(left + width, end_column), np.minimum(top + height, end_row)
    left, top = np.maximum(left, first_column), np.maximum(top, first_row)
    centre = np.stack([(left + right) / SCREEN[1] - 1, (top + bottom) / SCREEN[0] - 1], axis=-1)
    return np.where(((right > left) & (bottom > top))[..., None], centre, np.nan)
