"""The objects of Pong, read from its RAM."""

from __future__ import annotations

import numpy as np

from kpagent.envs.objects.screen import cells, visible_centre


def pong_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of the player's paddle (right), the enemy's (left) and the ball of Pong.

    Paddles are 4x16 pixels and the ball 2x4; the playfield, rows 34 to 193, cuts them off.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player`, `enemy` and `ball`, each (..., 2) float64: (x, y) in [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    field = (34, 194, 0, 160)
    # The player's paddle is drawn on every other row only.
    return {
        "player": visible_centre(cell[..., 46] - 48, (cell[..., 51] - 13) // 2 * 2, 4, 16, field),
        "enemy": visible_centre(cell[..., 45] - 48, cell[..., 50] - 15, 4, 16, field),
        "ball": visible_centre(cell[..., 49] - 49, cell[..., 54] - 14, 2, 4, field),
    }
