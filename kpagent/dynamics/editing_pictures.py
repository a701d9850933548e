"""Pictures of edited futures in the style of Struct-VRNN's Figures 6 and 7."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from torch import Tensor

from kpagent.drawing import OUTLINE, PRESENT, add_caption, contact_sheet, default_scale, draw_keypoints
from kpagent.dynamics.editing import Futures
from kpagent.dynamics.struct_vrnn import to_keypoints

BLUE, RED = (8, 69, 148), (178, 18, 30)
"""Of predicted parts: the original, and the edited."""
LIGHT_BLUE, LIGHT_RED = (158, 202, 225), (252, 174, 145)
"""Of observed parts."""

MARGIN = 0.08
"""Shown around the frame, which is 2 wide: futures may leave it."""

STRIP_FRAMES = 8
"""Predicted frames in a row of a sheet, at most."""

_SHIFT = 4


def draw_futures(futures: Futures, size: int = 640) -> np.ndarray:
    """Trajectories of all samples on white (Figure 6).

    Black crosses and numbers are at the places of the first frame. Blue is the original, red the edited; light parts are
    observed, dark parts foretold, dots are where they end. A black arrow goes from where a moved keypoint was at the last
    observed frame to where it was put. Keypoints that are absent from most observed frames, and were not moved, are left
    out.

    Args:
        futures: as of `counterfactual`.
        size: height and width of the picture in pixels, at least 64.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ValueError: a smaller size.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64, not {size}")
    return _Canvas(size).draw(futures)


def draw_edit(last_frame: np.ndarray, futures: Futures, rendered: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """One sheet: the last observed frame with numbered keypoints, `draw_futures`, and foretold frames of both below.

    Args:
        last_frame: (S, S, 3) uint8.
        futures: as of `counterfactual`.
        rendered: as of `render_futures`.

    Returns:
        (H, W, 3) uint8.
    """
    xy, presence = _keypoints(futures.observed[-1])
    frame = draw_keypoints(last_frame, xy, presence=presence, labels=True)
    size = max(64, *frame.shape[:2])
    top = contact_sheet([_pad(frame, size, size), draw_futures(futures, size)], 2)
    steps = len(futures.original[0])
    shown = np.unique(np.linspace(0, steps - 1, min(steps, STRIP_FRAMES)).round().astype(int))
    scale = max(1, min(top.shape[1] // len(shown) - 8, size // 2) // rendered[0].shape[2])
    strips = [
        add_caption(frames[len(futures.observed) + step].repeat(scale, axis=0).repeat(scale, axis=1), f"{name} +{step + 1}")
        for name, frames in zip(("original", "edited"), rendered, strict=True)
        for step in shown
    ]
    bottom = contact_sheet(strips, len(shown))
    width = max(top.shape[1], bottom.shape[1])
    return np.concatenate([_pad(part, len(part), width) for part in (top, bottom)])


def edit_film(futures: Futures, rendered: tuple[np.ndarray, np.ndarray], sample: int = 0) -> Iterator[np.ndarray]:
    """Frames of a film: rendered frames of the original and of the edited side by side, with their keypoints (Figure 7).

    Args:
        futures: as of `counterfactual`.
        rendered: as of `render_futures`, of the same sample.
        sample: which future.

    Yields:
        (H, W, 3) uint8, one for each observed and each foretold frame.
    """
    observed = len(futures.observed)
    halves = (
        ("original", rendered[0], futures.observed, futures.original[sample]),
        ("edited", rendered[1], futures.edited, futures.counterfactual[sample]),
    )
    for t in range(len(rendered[0])):
        seen = t < observed
        at = f"observed {t + 1}" if seen else f"predicted {t + 1 - observed}"
        panels = []
        for name, frames, before, after in halves:
            xy, presence = _keypoints(before[t] if seen else after[t - observed])
            scale = max(1, default_scale(*frames.shape[1:3]) // 2)
            panels.append(add_caption(draw_keypoints(frames[t], xy, presence=presence, scale=scale), name, at))
        yield contact_sheet(panels, 2)


def shown_keypoints(futures: Futures) -> list[int]:
    """The keypoints that are present in at least half of the observed frames, or were moved."""
    presence = to_keypoints(futures.observed).presence
    present = (presence >= PRESENT).double().mean(dim=0) >= 0.5
    return sorted({int(index) for index in present.nonzero().flatten()} | set(futures.moved))


class _Canvas:
    """A white square with a thin line around the frame."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.width = max(1, round(size / 320))
        self.pixels = np.full((size, size, 3), 255, np.uint8)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
        self._line(corners, (200, 200, 200), 1)

    def draw(self, futures: Futures) -> np.ndarray:
        keypoints, moved = shown_keypoints(futures), futures.moved
        before, edited = _xy(futures.observed), _xy(futures.edited)
        after, counterfactual = _xy(futures.original), _xy(futures.counterfactual)
        for index in keypoints:
            self._line(before[:, index], LIGHT_BLUE)
            if index in moved:
                self._line(edited[:, index], LIGHT_RED)
        # Sample by sample, so that neither colour hides the other everywhere.
        for blue, red in zip(after, counterfactual, strict=True):
            for index in keypoints:
                self._line(np.concatenate([before[-1:, index], blue[:, index]]), BLUE)
                if moved:
                    self._line(np.concatenate([edited[-1:, index], red[:, index]]), RED)
        for blue, red in zip(after, counterfactual, strict=True):
            for index in keypoints:
                self._dot(blue[-1, index], BLUE)
                if moved:
                    self._dot(red[-1, index], RED)
        for index in keypoints:
            self._cross(before[0, index], str(index))
        for index in moved:
            self._arrow(before[-1, index], edited[-1, index])
        return self.pixels

    def _line(self, places: np.ndarray, color: tuple[int, int, int], width: int | None = None) -> None:
        points = self._fixed(places).reshape(-1, 1, 2)
        cv2.polylines(self.pixels, [points], False, color, width or self.width, cv2.LINE_AA, _SHIFT)

    def _dot(self, place: np.ndarray, color: tuple[int, int, int]) -> None:
        radius = round(1.6 * self.width * 2**_SHIFT)
        cv2.circle(self.pixels, self._point(place), radius, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def _cross(self, place: np.ndarray, text: str) -> None:
        arm = 4 * self.width / self.size
        for diagonal in (np.array([arm, arm]), np.array([arm, -arm])):
            self._line(np.stack([place - diagonal, place + diagonal]), (0, 0, 0))
        x, y = (value / 2**_SHIFT for value in self._point(place + np.array([2 * arm, -arm])))
        where = (min(round(x), self.size - 12 * len(text)), max(round(y), 10))
        for color, thickness in (((255, 255, 255), 3), ((60, 60, 60), 1)):
            cv2.putText(self.pixels, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, thickness, cv2.LINE_AA)

    def _arrow(self, start: np.ndarray, end: np.ndarray) -> None:
        length = float(np.hypot(*(end - start)))
        if length > 1e-3:
            head = min(0.4, 0.06 / length)
            ends = self._point(start), self._point(end)
            cv2.arrowedLine(self.pixels, *ends, (0, 0, 0), self.width, cv2.LINE_AA, _SHIFT, head)

    def _fixed(self, places: np.ndarray) -> np.ndarray:
        share = (places + 1 + MARGIN) / (2 + 2 * MARGIN)
        # Far outside is outside: OpenCV's numbers end.
        pixels = np.clip(share * self.size - 0.5, -(2**14), 2**14)
        return np.rint(pixels * 2**_SHIFT).astype(np.int32)

    def _point(self, place: np.ndarray) -> tuple[int, int]:
        x, y = self._fixed(place)
        return int(x), int(y)


def _xy(codes: Tensor) -> np.ndarray:
    xy: np.ndarray = codes.unflatten(-1, (-1, 3))[..., :2].double().numpy()
    return xy


def _keypoints(code: Tensor) -> tuple[np.ndarray, np.ndarray]:
    keypoints = to_keypoints(code)
    return keypoints.xy.numpy(), keypoints.presence.numpy()


def _pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture in the upper left corner of one of this size."""
    padded = np.full((height, width, 3), OUTLINE, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded
