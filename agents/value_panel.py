"""Q-values as a picture: a bar for each action, with its name and its number."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kpagent.drawing import OUTLINE

CHOSEN = (255, 221, 6)
OTHER = (112, 122, 138)
TEXT = (205, 208, 214)

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_values(
    height: int, heading: str, names: Sequence[str], values: np.ndarray | None, chosen: int | None, full: float
) -> np.ndarray:
    """A panel with a bar for each action, the chosen one in another colour.

    Values of a good agent lie close together and far from zero, so a bar shows by how much a value is above the least of
    them.

    Args:
        height: of the panel, in pixels.
        heading: a line above the bars.
        names: of the A actions; ASCII.
        values: (A,); None draws the names alone.
        chosen: the action that is played; None marks none.
        full: the difference that a bar of full length stands for; wider ones are cut.

    Returns:
        (height, W, 3) uint8; W depends on `height` alone.
    """
    width = round(0.6 * height)
    panel = np.full((height, width, 3), OUTLINE, np.uint8)
    margin = max(2, height // 40)
    row = min(height / 14, (height - margin) / (len(names) + 2))
    size = min(row / 44, height / 1000)
    _write(panel, heading, margin, 1.2 * row, 1.3 * size, TEXT)
    numbers = [""] * len(names) if values is None else [f"{value:.2f}" for value in values]
    # Room for any number that usually comes, so that bars do not change their length with a sign.
    number_width = max(_width(text, size) for text in (*numbers, "-10.00"))
    name_width = min(max(_width(name, size) for name in names), width // 2)
    left = 2 * margin + name_width
    room = max(1, width - left - 2 * margin - number_width)
    for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
        color = CHOSEN if index == chosen else TEXT
        middle = (index + 2.2) * row
        _write(panel, _cut(name, size, name_width), margin, middle, size, color)
        if values is None:
            continue
        share = float(np.clip((values[index] - values.min()) / full, 0, 1)) if full > 0 else 0.0
        top, bottom = round(middle - 0.3 * row), max(round(middle - 0.3 * row) + 1, round(middle + 0.3 * row))
        panel[top:bottom, left : left + max(2, round(share * room))] = CHOSEN if index == chosen else OTHER
        _write(panel, number, width - margin - _width(number, size), middle, size, color)
    return panel


def _write(panel: np.ndarray, text: str, x: int, middle: float, size: float, color: tuple[int, int, int]) -> None:
    """A line of text whose capitals are centred on the row `middle`."""
    # Capitals of this font are 21 pixels high at size 1.
    cv2.putText(panel, text, (x, round(middle + 10.5 * size)), _FONT, size, color, 1, cv2.LINE_AA)


def _cut(text: str, size: float, width: int) -> str:
    while text and _width(text, size) > width:
        text = text[:-1]
    return text


def _width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0])
