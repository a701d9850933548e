"""The objects of Breakout, read from its RAM."""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN
from kpagent.envs.objects.screen import cells, visible_centre


def breakout_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of the paddle and the ball of Breakout.

    The paddle is 16x4 pixels and the ball 2x4; the walls (columns 8 and 152, row 32) and row 196 cut them off. Among the
    bricks the ball takes the colour of the row that it is in.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `paddle` and `ball`, each (..., 2) float64: (x, y) in [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    field = (32, 196, 8, 152)
    paddle_left = cell[..., 72] - 47
    ball_top = np.where(cell[..., 101] > 0, cell[..., 101] + 9, SCREEN[0])
    return {
        "paddle": visible_centre(paddle_left, np.full_like(paddle_left, 189), 16, 4, field),
        "ball": visible_centre(cell[..., 99] - 49, ball_top, 2, 4, field),
    }
