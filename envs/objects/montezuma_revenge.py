"""The objects of Montezuma's Revenge, read from its RAM."""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN
from kpagent.envs.objects.screen import cells, visible_centre

JUMP = np.array([-3, -3, -2, -2, -2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 0])
"""Rows that a jump is about to rise by in the next frame, for each of its steps; a step counts down."""

_JUMPING, _FALLING, _SPLAT, _STRUCK = 6, 8, 22, 30


def montezuma_revenge_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of the player, the rolling skull and the key of Montezuma's Revenge.

    Places are the pixels' in the first room (1). The RAM holds the player's place in the frame to come: rows are put back
    by the speed of a jump or a fall, so a walking or climbing player is one row or column ahead at most; only the first
    frame of a death may be some rows off. In other rooms the player is right to one row, the key's row is right to two,
    the skull is read in room 5 only, and other enemies and things to collect are not. The cells after OCAtari (Delfosse et
    al. 2023).

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player` (8x20 pixels, 8x14 when fallen to death), `skull` (8x12) and `key` (7x15), each (..., 2) float64: (x, y) in
        [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    rooms = (48, SCREEN[0], 0, SCREEN[1])
    nowhere = SCREEN[1]
    room, state = cell[..., 3], cell[..., 53]

    step = cell[..., 86]
    jumping = (state == _JUMPING) & (step < len(JUMP))
    falling = ((state == _JUMPING) | (state == _FALLING)) & (cell[..., 2] == 7)
    lead = np.where(jumping, JUMP[np.minimum(step, len(JUMP) - 1)], np.where(falling, -2, 0))
    splat = state == _SPLAT
    player_top = 308 - cell[..., 43] + lead + np.where(splat, 6, 0)

    # A skull that has struck is taken off the list of those alive, but is seen until the player comes back.
    alive = np.where(room == 1, cell[..., 67], np.where(room == 5, cell[..., 69], 0)) & 2
    skull_seen = (alive > 0) | (((room == 1) | (room == 5)) & (state == _STRUCK))
    skull_top = np.where(room == 1, 407, 359) - cell[..., 46]

    key_seen = (cell[..., 49] == 4) & (room < 16)
    key_top = np.where(room == 1, 353, 308) - cell[..., 45]
    return {
        "player": visible_centre(cell[..., 42] - 1, player_top, 8, np.where(splat, 14, 20), rooms),
        "skull": visible_centre(np.where(skull_seen, cell[..., 47] + 32, nowhere), skull_top, 8, 12, rooms),
        "key": visible_centre(np.where(key_seen, cell[..., 44] - 1, nowhere), key_top, 7, 15, rooms),
    }
