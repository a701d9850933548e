"""What every Atari game's objects are read with: memory cells as numbers, and the centre of what is seen of a sprite."""

from __future__ import annotations

import numpy as np

from kpagent.envs.atari import SCREEN


def cells(ram: np.ndarray) -> np.ndarray:
    """The 128 bytes of the RAM as int64, since bytes would wrap round below zero.

    Args:
        ram: (..., 128) uint8.

    Raises:
        ValueError: of another shape or type.
    """
    if ram.dtype != np.uint8 or ram.shape[-1:] != (128,):
        raise ValueError(f"ram must be (..., 128) uint8, not {ram.shape} {ram.dtype}")
    return ram.astype(np.int64)


def visible_centre(
    left: np.ndarray,
    top: np.ndarray,
    width: int | np.ndarray,
    height: int | np.ndarray,
    field: tuple[int, int, int, int],
) -> np.ndarray:
    """Centre of the part of a rectangle that lies inside the field.

    Args:
        left: (...) its first column of pixels.
        top: (...) its first row.
        width: its columns, of one or of each.
        height: its rows, of one or of each.
        field: first row, row after the last, first column and column after the last of what can be seen.

    Returns:
        (..., 2) float64: (x, y) in [-1, 1], NaN where nothing of it is inside.
    """
    first_row, end_row, first_column, end_column = field
    right, bottom = np.minimum(left + width, end_column), np.minimum(top + height, end_row)
    left, top = np.maximum(left, first_column), np.maximum(top, first_row)
    centre = np.stack([(left + right) / SCREEN[1] - 1, (top + bottom) / SCREEN[0] - 1], axis=-1)
    return np.where(((right > left) & (bottom > top))[..., None], centre, np.nan)


def larger_part(left: np.ndarray, width: int | np.ndarray, first_column: int = 0) -> np.ndarray:
    """Where a rectangle that leaves the screen on the right and comes in again on the left has the larger part of it.

    Args:
        left: (...) its first column of pixels, any number; it is taken round the 160 columns of the screen.
        width: its columns.
        first_column: the first column that can be seen.

    Returns:
        (...) the first column that makes `visible_centre` see the larger part: below 160, negative where that is the one on
        the left.
    """
    left = left % SCREEN[1]
    return np.where(2 * left > 2 * SCREEN[1] - width + first_column, left - SCREEN[1], left)
