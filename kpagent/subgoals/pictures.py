"""Pictures of keyframes in the style of KeyIn's Figures 4 to 7 and 10: strips of frames, and whole trajectories in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from kpagent.drawing import OUTLINE, add_caption, contact_sheet, draw_keypoints

FOUND, TRUE, PLAIN = (64, 140, 255), (227, 50, 48), (62, 62, 70)
"""Colours of the border of a keyframe that was found, of the bar above a true one, and of the border of all others."""

DIM = 0.4
"""How bright frames between keyframes are in a picture of a whole trajectory, beside the keyframes."""

_BORDER, _BAR, _GAP = 3, 5, 4
_MARGIN, _BAND, _HEAT = 104, 20, 10
_TEXT = (200, 200, 205)


@dataclass(frozen=True, eq=False)
class Strip:
    """One sequence as a row of pictures, a column for each frame number.

    Attributes:
        name: ASCII, to its left.
        frames: (L, H, W, 3) uint8.
        keyframes: (F,) frame numbers that get a blue border; those beyond the strip are left out.
        true: (P,) frame numbers that get a red bar above them.
        keypoints: (L, K, 2) in [-1, 1], drawn on the frames; None for none.
        start: the number of the first of its frames.
        sparse: show its keyframes alone.
    """

    name: str
    frames: np.ndarray
    keyframes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    true: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    keypoints: np.ndarray | None = None
    start: int = 0
    sparse: bool = False


def draw_keyframes(
    frames: np.ndarray,
    found: np.ndarray,
    true: np.ndarray | None = None,
    *,
    keypoints: np.ndarray | None = None,
    times: np.ndarray | None = None,
    below: Sequence[Strip] = (),
    size: int = 64,
) -> np.ndarray:
    """A sequence from left to right with its keyframes, when they may be as a heatmap below, and other strips (Figure 4).

    Args:
        frames: (L, H, W, 3) uint8, the sequence.
        found: (F,) numbers of the frames that are keyframes, which get a blue border.
        true: (P,) numbers of the true ones, which get a red bar above them.
        keypoints: (L, K, 2) in [-1, 1], drawn on the frames.
        times: (M, L), the probability that each keyframe is each frame, as of `time_map`; a row of the heatmap each.
        below: what stands below, with frames as large as these: keyframes as predicted, reconstructions, other methods.
        size: pixels that a frame's height is enlarged to, about; by a whole factor, and never made smaller.

    Returns:
        (H', W', 3) uint8; nothing is resampled, so a pixel of a frame is a square.

    Raises:
        TypeError: frames that are not uint8.
        ValueError: shapes that do not fit together.
    """
    strips = [Strip("sequence", frames, found, np.zeros(0, np.int64) if true is None else true, keypoints), *below]
    if any(strip.frames.shape[1:] != frames.shape[1:] for strip in strips):
        raise ValueError(f"frames of all strips must have one size, not {[strip.frames.shape for strip in strips]}")
    length = max(strip.start + len(strip.frames) for strip in strips)
    if times is not None and (times.ndim != 2 or times.shape[1] > length):
        raise ValueError(f"times must be (M, L) of at most {length} frames, not {times.shape}")
    scale = max(1, size // frames.shape[1])
    pitch = scale * frames.shape[2] + 2 * _BORDER + _GAP
    rows = [_numbers(length, pitch), _strip(strips[0], length, scale)]
    if times is not None:
        rows.append(_heat(times, length, pitch))
    rows += [_strip(strip, length, scale) for strip in strips[1:]]
    return np.concatenate(rows)


def draw_samples(
    samples: np.ndarray,
    keyframes: Sequence[np.ndarray],
    *,
    names: Sequence[str] = (),
    columns: int = 5,
    size: int = 192,
) -> np.ndarray:
    """Whole trajectories, each in one picture: keyframes bright, all between them dim (Figures 5 and 10).

    Each pixel is that of the frame in which it differs most from what it mostly is over all frames.

    Args:
        samples: (S, L, H, W, 3) uint8.
        keyframes: (F,) frame numbers of each.
        names: ASCII, of each, written below; none without.
        columns: pictures in a row.
        size: pixels that a frame's height is enlarged to, about.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: another number of keyframes or names than of samples.
    """
    scale = max(1, size // samples.shape[2])
    cells = [_enlarged(_whole(frames, numbers), scale) for frames, numbers in zip(samples, keyframes, strict=True)]
    return _sheet(cells, names, columns)


def draw_ways(
    backdrop: np.ndarray,
    keypoints: np.ndarray,
    keyframes: Sequence[np.ndarray],
    *,
    names: Sequence[str] = (),
    columns: int = 5,
    size: int = 192,
) -> np.ndarray:
    """Whole trajectories of keypoints, each in one picture: a line for each keypoint, markers at keyframes (Figure 6).

    Args:
        backdrop: (H, W, 3) uint8, the frame that they are drawn on, which is darkened.
        keypoints: (S, L, K, 2) in [-1, 1].
        keyframes: (F,) frame numbers of each.
        names: as of `draw_samples`.
        columns: as of `draw_samples`.
        size: as of `draw_samples`.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: another number of keyframes or names than of samples.
    """
    scale = max(1, size // backdrop.shape[0])
    dark = (DIM * backdrop).astype(np.uint8)
    cells = []
    for xy, numbers in zip(keypoints, keyframes, strict=True):
        cell = draw_keypoints(dark, xy[-1], trails=xy[:-1], scale=scale)
        for number in _within(numbers, len(xy)):
            cell = draw_keypoints(cell, xy[number], scale=1)
        cells.append(cell)
    return _sheet(cells, names, columns)


def _numbers(length: int, pitch: int) -> np.ndarray:
    """The axis of time: every fifth number, and the first."""
    band = np.full((_BAND, _MARGIN + length * pitch, 3), OUTLINE, np.uint8)
    for number in range(0, length, 5):
        _write(band, str(number), _MARGIN + number * pitch + _BORDER)
    return band


def _strip(strip: Strip, length: int, scale: int) -> np.ndarray:
    height, width = (scale * side for side in strip.frames.shape[1:3])
    pitch = width + 2 * _BORDER + _GAP
    row = np.full((_BAR + height + 2 * _BORDER + _GAP, _MARGIN + length * pitch, 3), OUTLINE, np.uint8)
    _write(row, strip.name, 8)
    keyframes, true = set(np.asarray(strip.keyframes).tolist()), set(np.asarray(strip.true).tolist())
    for place, frame in enumerate(strip.frames):
        number = strip.start + place
        if strip.sparse and number not in keyframes:
            continue
        left, right = _MARGIN + number * pitch, _MARGIN + number * pitch + width + 2 * _BORDER
        if number in true:
            row[: _BAR - 1, left:right] = TRUE
        row[_BAR:-_GAP, left:right] = FOUND if number in keyframes else PLAIN
        xy = None if strip.keypoints is None else strip.keypoints[place]
        drawn = _enlarged(frame, scale) if xy is None else draw_keypoints(frame, xy, scale=scale)
        row[_BAR + _BORDER : -_GAP - _BORDER, left + _BORDER : right - _BORDER] = drawn
    return row


def _heat(times: np.ndarray, length: int, pitch: int) -> np.ndarray:
    rows = np.full((len(times) * _HEAT + _GAP, _MARGIN + length * pitch, 3), OUTLINE, np.uint8)
    _write(rows, "when", 8)
    # The square root shows what is not sure too.
    colours = cv2.applyColorMap((255 * np.sqrt(np.clip(times, 0, 1))).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    # One pixel stays dark between keyframes.
    shown = colours.repeat(_HEAT, axis=0).repeat(pitch, axis=1)
    shown[_HEAT - 1 :: _HEAT] = OUTLINE
    rows[: len(shown), _MARGIN : _MARGIN + shown.shape[1]] = shown
    return rows


def _whole(frames: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    usual = np.median(frames, axis=0)
    weights = np.full(len(frames), DIM)
    weights[_within(keyframes, len(frames))] = 1
    change = weights[:, None, None, None] * (frames - usual)
    strongest = np.abs(change).sum(axis=-1).argmax(axis=0)
    taken = np.take_along_axis(change, strongest[None, ..., None], axis=0)[0]
    picture: np.ndarray = np.clip(usual + taken, 0, 255).round().astype(np.uint8)
    return picture


def _within(keyframes: np.ndarray, length: int) -> np.ndarray:
    numbers = np.asarray(keyframes, np.int64)
    return numbers[(numbers >= 0) & (numbers < length)]


def _sheet(cells: Sequence[np.ndarray], names: Sequence[str], columns: int) -> np.ndarray:
    if names:
        cells = [add_caption(cell, name) for cell, name in zip(cells, names, strict=True)]
    return contact_sheet(cells, columns)


def _write(row: np.ndarray, text: str, left: int) -> None:
    baseline = min(len(row) - 5, len(row) // 2 + 5)
    cv2.putText(row, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _TEXT, 1, cv2.LINE_AA)


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)
