"""The objects of Seaquest, read from its RAM."""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN
from kpagent.envs.objects.screen import cells, visible_centre

LANES = 4
SLOTS = 3
"""Enemies that a lane can hold."""

_SURFACED = 13


def seaquest_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of everything that moves in Seaquest.

    Lanes count from the sea bed (0) up (3), the places of a group of enemies from left to right. The sea is cut off at
    columns 8 and 160. A player that was hit counts as long as it flashes and its explosion is seen. What lies behind
    something else, as a missile does that is about to leave its submarine, counts as seen. The cells after OCAtari
    (Delfosse et al. 2023), the places from the pixels.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player` (16x11 pixels, 16x7 at the surface), `player_missile` (8x1), `surface_submarine` (8x7) and, for each lane L,
        `enemy_L_0` to `enemy_L_2` (sharks 8x7, submarines 8x11), `diver_L` (8x14) and `enemy_missile_L` (6x4), each (..., 2)
        float64: (x, y) in [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    sea = (46, 158, 8, 160)
    nowhere = SCREEN[1]
    depth, hit = cell[..., 97], cell[..., 105]
    player_left = np.where((hit > 0) & (hit < 7), nowhere, cell[..., 70])
    surface_left = np.where(cell[..., 60] >= 2, cell[..., 118], nowhere)
    objects = {
        "player": visible_centre(player_left, depth + 33, 16, np.where(depth <= _SURFACED, 7, 11), sea),
        # Above row 57, in the waves, a missile is not drawn.
        "player_missile": visible_centre(cell[..., 103], depth + 40, 8, 1, (57, 158, 8, 160)),
        "surface_submarine": visible_centre(surface_left, np.full_like(surface_left, 46), 8, 7, sea),
    }
    for lane in range(LANES):
        first_row = 141 - 24 * lane
        kind = cell[..., 89 + lane] % 8
        submarines = (kind > 3) & (kind < 7)
        top = np.where(submarines, first_row - 1, first_row + cell[..., 93] - 4)
        height = np.where(submarines, 11, 7)
        for slot in range(SLOTS):
            present = (cell[..., 36 + lane] >> (SLOTS - 1 - slot)) & 1
            left = np.where(present, (cell[..., 30 + lane] + 16 * slot) % 256, nowhere)
            objects[f"enemy_{lane}_{slot}"] = visible_centre(left, top, 8, height, sea)
        left = cell[..., 71 + lane]
        row = np.full_like(left, first_row)
        objects[f"diver_{lane}"] = visible_centre(np.where(submarines, nowhere, left), row - 4, 8, 14, sea)
        objects[f"enemy_missile_{lane}"] = visible_centre(np.where(submarines, left + 2, nowhere), row + 4, 6, 4, sea)
    return objects
