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
    left: np.ndarray, top: np.ndarray, width: int, height: int, field: tuple[int, int, int, int]
) -> np.ndarray:
    """Centre of the part of a rectangle that lies inside the field.

    Args:
        left: (...) its first column of pixels.
        top: (...) its first row.
        width: its columns.
        height: its rows.
        field: first row, row after the last, first column and column after the last of what can be seen.

    Returns:
        (..., 2) float64: (x, y) in [-1, 1], NaN where nothing of it is inside.
    """
    first_row, end_row, first_column, end_column = field
    right, bottom = np.minimum(left + width, end_column), np.minimum(top + height, end_row)
    left, top = np.maximum(left, first_column), np.maximum(top, first_row)
    centre = np.stack([(left + right) / SCREEN[1] - 1, (top + bottom) / SCREEN[0] - 1], axis=-1)
    return np.where(((right > left) & (bottom > top))[..., None], centre, np.nan)
