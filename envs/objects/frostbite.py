"""The objects of Frostbite, read from its RAM: cells after OCAtari (Delfosse et al. 2023), places checked against pixels."""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN
from kpagent.envs.objects.screen import cells, larger_part, visible_centre

_LANES = 4
_ROWS_APART = 26
_FIRST_COLUMN = 8
_SPRITE_STARTS = ((0x12, 0x1A), (0x6D, 0x7C), (0x22, 0x32), (0x42, 0x5E))
"""Where the two sprites of a bird, a fish, a crab and a clam begin in the game's memory, lower byte."""


def frostbite_objects(ram: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of what is seen of the player, the bear, the ice floes and the creatures of Frostbite, in every level.

    The 8 black columns on the left cover whatever is there. The player is 8x18 pixels and sinks out of sight in the water or
    goes into the igloo; the bear, 14x16, walks on the shore from the fourth level on.

    A row of ice floes is a chain of three, 32 columns apart, that slides round the screen: `floe_ROW_INDEX` counts rows from
    the top and floes along the chain, so that an index stays with its floe when it goes out on one side and comes in on the
    other. A floe is 24x7 pixels. In every second level it splits into two halves, of up to 32 columns together: it is still
    one object, and its place the middle of both. Cut by the border, its place is the centre of the part that is seen; seen
    on both sides, of the larger part.

    Birds, fish, crabs and clams, 8 columns wide and 7 or 8 rows high, swim or fly in the lanes above the rows, up to three
    side by side, 16 columns apart: `creature_LANE_INDEX` counts lanes from the top and creatures from the right. The first
    level has number 0 of each lane alone. A creature that comes back after it has left the screen can be of another kind.

    Args:
        ram: (..., 128) uint8.

    Returns:
        `player`, `bear`, `floe_0_0` to `floe_3_2` and `creature_0_0` to `creature_3_2`, each (..., 2) float64: (x, y) in
        [-1, 1], NaN where the object is not on the screen.
    """
    cell = cells(ram)
    sunk = cell[..., 107]
    turned = cell[..., 108] & 16 > 0
    bear_left = np.where(cell[..., 75] >= 3, cell[..., 104] + np.where(turned, 1, 3), SCREEN[1])
    shore_and_water = (47, 186, _FIRST_COLUMN, SCREEN[1])
    objects = {
        "player": visible_centre(cell[..., 102], cell[..., 100] + 29 + sunk, 8, 18 - sunk, shore_and_water),
        "bear": visible_centre(bear_left, np.full_like(bear_left, 58), 14, 16, shore_and_water),
    }
    # The halves of a floe are a sprite and a missile that hardware moves apart to the left and to the right.
    joined = np.abs((cell[..., 30] + 8) % 16 - 8)
    to_left, to_right = np.maximum(4 - joined, 0), np.minimum(8 - joined, 4)
    for row in range(_LANES):
        chain = cell[..., 34 - row] - 8 - to_left
        top = 96 + _ROWS_APART * row
        for index in range(3):
            width = 24 + to_left + to_right
            left = larger_part(chain + 32 * index, width, _FIRST_COLUMN)
            field = (top, top + 7, _FIRST_COLUMN, SCREEN[1])
            objects[f"floe_{row}_{index}"] = visible_centre(left, np.full_like(left, top), width, 7, field)
    for lane in range(_LANES):
        kind, depth = _kind_and_depth(cell[..., 20 - lane], cell[..., 38 - lane])
        first_row = 82 + _ROWS_APART * lane
        field = (first_row, first_row + 8, _FIRST_COLUMN, SCREEN[1])
        for index in range(3):
            left = (cell[..., 99 - lane] + 32 - 16 * index) % 256
            left = np.where(cell[..., 95 - lane] >> index & 1 > 0, left, SCREEN[1])
            objects[f"creature_{lane}_{index}"] = visible_centre(left, first_row + depth, 8, np.where(kind < 2, 7, 8), field)
    return objects


def _kind_and_depth(state: np.ndarray, sprite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What swims in a lane (bird, fish, crab, clam: 0 to 3), and how many rows it is below the highest that it comes."""
    kind = state % 4
    first, second = np.array(_SPRITE_STARTS).T
    # The game lowers a creature by pointing above the start of one of its two sprites.
    lower, upper = np.minimum(first, second)[kind], np.maximum(first, second)[kind]
    return kind, np.where(kind > 0, np.where(sprite < upper, sprite - lower, sprite - upper), 0)
