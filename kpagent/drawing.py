"""Pictures of keypoints: markers and fading trails on frames, contact sheets, and files to keep them in.

Frames are uint8 RGB, height × width × 3, and are never changed: every function gives a new one. Coordinates are those of
`kpagent.keypoints`: (x, y) in [-1, 1], y down, with -1 and +1 on the outer edges of the image.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from kpagent.errors import UsageError
from kpagent.files import replace_file

PALETTE: tuple[tuple[int, int, int], ...] = (
    (80, 222, 255),
    (255, 221, 6),
    (253, 96, 169),
    (25, 175, 95),
    (226, 158, 31),
    (227, 50, 48),
    (38, 78, 255),
    (245, 245, 245),
)
"""The hues of Okabe and Ito (2008), brightened to show on dark games, white for their black. Any two are at least 20 apart
in CIELAB, to full sight and to each of the three kinds of dichromacy (Machado et al. 2009)."""

MARKERS: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
)
"""Corners (x, y) of a marker of radius 1; none means a circle. Keypoints past the palette repeat its colours in the next
shape."""

TRIANGLE = len(MARKERS) - 1
"""Among these, the one that sets a keypoint apart, as in Transporter Figure 3."""

TARGET_HEIGHT = 640
"""A frame is enlarged by the largest whole factor that keeps it within this height, and twice this width."""

TRAIL_BREAK = 0.5
"""A step longer than this (the image is 2 wide) is a jump to another place, not a movement, and leaves no trail."""

PRESENT = 0.5
"""A keypoint whose presence is below this is taken to be absent."""

OUTLINE = (16, 16, 20)
"""Colour around markers and behind captions and sheets."""

_SHIFT = 4
"""OpenCV draws at fractions of a pixel: coordinates are whole numbers of 2 ** -4 pixels."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def keypoint_color(index: int) -> tuple[int, int, int]:
    """The RGB colour of the keypoint of this index, the same in every picture."""
    return PALETTE[index % len(PALETTE)]


def default_scale(height: int, width: int) -> int:
    """The whole factor, at least 1, that brings a frame of this size close to `TARGET_HEIGHT`."""
    return max(1, min(TARGET_HEIGHT // height, 2 * TARGET_HEIGHT // width))


def draw_keypoints(
    frame: np.ndarray,
    xy: np.ndarray,
    *,
    presence: np.ndarray | None = None,
    threshold: float = PRESENT,
    trails: np.ndarray | None = None,
    labels: bool = False,
    triangle: int | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """The frame, enlarged, with a marker on each keypoint and where it came from as a line that fades with age.

    Args:
        frame: (H, W, 3) uint8.
        xy: (K, 2) coordinates in [-1, 1]; a keypoint that is not a finite number is not drawn.
        presence: (K,) in [0, 1]; keypoints below `threshold` are not drawn. None draws all.
        threshold: see `presence`.
        trails: (T, K, 2) earlier coordinates, oldest first; NaN where a keypoint was absent.
        labels: write each keypoint's index beside it.
        triangle: the keypoint that is set apart: a triangle of its own colour, twice as large and on top of all others.
        scale: whole factor of enlargement, each pixel becoming scale × scale; None takes `default_scale`.

    Returns:
        (scale · H, scale · W, 3) uint8, always a new array.

    Raises:
        TypeError: the frame is not uint8.
        ValueError: shapes do not fit together, or scale is below 1.
    """
    _require_frame(frame)
    xy = np.array(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"xy must be (K, 2), not {xy.shape}")
    if presence is not None:
        if np.shape(presence) != xy.shape[:1]:
            raise ValueError(f"presence must be {xy.shape[:1]} beside xy {xy.shape}, not {np.shape(presence)}")
        xy[np.asarray(presence) < threshold] = np.nan
    scale = default_scale(*frame.shape[:2]) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale must be at least 1, not {scale}")
    # Repeated, never resized: OpenCV's nearest neighbour may place a pixel half a pixel off.
    canvas = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    radius = max(3, canvas.shape[0] / 110)
    if trails is not None:
        path = np.concatenate([np.asarray(trails, np.float64), xy[None]])
        _draw_trails(canvas, path, width=radius)
    shown = [int(index) for index in np.flatnonzero(np.isfinite(xy).all(axis=-1))]
    for index in sorted(shown, key=lambda index: index == triangle):
        apart = index == triangle
        shape = TRIANGLE if apart else index // len(PALETTE) % len(MARKERS)
        _draw_marker(canvas, _to_pixels(xy[index], canvas), 2 * radius if apart else radius, index, MARKERS[shape])
    if labels:
        for index in map(int, np.flatnonzero((np.abs(xy) <= 1).all(axis=-1))):
            _draw_label(canvas, _to_pixels(xy[index], canvas), radius, index)
    return canvas


def add_caption(frame: np.ndarray, left: str, right: str = "") -> np.ndarray:
    """The frame with a dark strip below it and a line of text at each end of the strip; what does not fit is left out.

    Args:
        frame: (H, W, 3) uint8.
        left: ASCII, the one kept where there is room for one only.
        right: ASCII.

    Returns:
        (H + strip, W, 3) uint8.
    """
    _require_frame(frame)
    width = frame.shape[1]
    strip_height = 2 * round(max(18, min(frame.shape[0], 1.4 * width) / 20) / 2)
    strip = np.full((strip_height, width, 3), OUTLINE, np.uint8)
    size, margin = strip_height / 60, strip_height // 3
    room = width - 2 * margin
    if _text_width(left, size) + margin + _text_width(right, size) > room:
        right = ""
    while left and _text_width(left, size) > room:
        left = left[:-1]
    baseline = round(strip_height * 0.66)
    ends = ((left, margin, (235, 235, 235)), (right, width - margin - _text_width(right, size), (165, 170, 180)))
    for text, x, color in ends:
        cv2.putText(strip, text, (x, baseline), _FONT, size, color, 1, cv2.LINE_AA)
    return np.concatenate([frame, strip])


def contact_sheet(frames: Sequence[np.ndarray], columns: int, *, gap: int = 8) -> np.ndarray:
    """Frames in reading order on one sheet, with a dark gap between and around them.

    Args:
        frames: (H, W, 3) uint8, all of one size, at least one.
        columns: frames in a row; a sheet of fewer frames is narrower, and the end of the last row stays empty.
        gap: pixels between frames and around the sheet.

    Returns:
        (rows · (H + gap) + gap, columns · (W + gap) + gap, 3) uint8.

    Raises:
        ValueError: no frames, frames of several sizes, columns below 1 or a gap below 0.
    """
    if not len(frames) or columns < 1 or gap < 0:
        raise ValueError(f"a sheet needs frames, columns and no negative gap, not {len(frames)}, {columns} and {gap}")
    for frame in frames:
        _require_frame(frame)
        if frame.shape != frames[0].shape:
            raise ValueError(f"frames of one sheet must have one size, not {frames[0].shape} and {frame.shape}")
    height, width = frames[0].shape[:2]
    columns = min(columns, len(frames))
    rows = math.ceil(len(frames) / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), OUTLINE, np.uint8)
    for index, frame in enumerate(frames):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def require_writable(path: str | Path, suffix: str) -> Path:
    """The path, if a file of this kind can be put there; for a check before long work starts. Its folder is made.

    Args:
        path: the file to be.
        suffix: what its name must end in, such as ".mp4".

    Raises:
        UsageError: another suffix, or a path that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UsageError(f"cannot write {path}: its name must end in {suffix}")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    return path


def write_png(path: str | Path, frame: np.ndarray) -> None:
    """Write one frame as PNG, whole or not at all.

    Args:
        path: ends in .png; its folder is made.
        frame: (H, W, 3) uint8.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    _require_frame(frame)
    path = require_writable(path, ".png")
    _, png = cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    replace_file(path, lambda beside: _write_bytes(beside, png.tobytes()))


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30) -> int:
    """Write frames, as they come, to an MP4 that every player and browser plays (H.264, yuv420p), whole or not at all.

    A frame of odd height or width, which the format does not know, gets its last row or column twice.

    Args:
        path: ends in .mp4; its folder is made.
        frames: (H, W, 3) uint8 of one size; asked for one by one and not kept. What they raise goes through, and leaves no
            file.
        fps: frames a second.

    Returns:
        The number of frames.

    Raises:
        UsageError: another suffix, no frames, fps not above 0, or the file cannot be written; known before the first frame
            is asked for where it can be.
        ValueError: frames of several sizes.
    """
    path = require_writable(path, ".mp4")
    if not fps > 0:
        raise UsageError(f"fps must be above 0, not {fps}")
    counts: list[int] = []
    replace_file(path, lambda beside: counts.append(_encode(beside, frames, fps)))
    return counts[0]


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    import imageio_ffmpeg

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UsageError("cannot write a video of no frames")
    _require_frame(first)
    shape = first.shape
    odd = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    writer = imageio_ffmpeg.write_frames(
        path,
        (shape[1] + shape[1] % 2, shape[0] + shape[0] % 2),
        fps=fps,
        codec="libx264",
        quality=7,
        macro_block_size=1,
        ffmpeg_log_level="quiet",
        output_params=["-movflags", "+faststart"],
    )
    count = 0
    with contextlib.closing(writer):
        writer.send(None)
        for frame in itertools.chain([first], frames):
            _require_frame(frame)
            if frame.shape != shape:
                raise ValueError(f"frames of one video must have one size, not {shape} and {frame.shape}")
            try:
                writer.send(np.pad(frame, odd, mode="edge"))
            except OSError:
                raise OSError(f"ffmpeg ended after {count} frames (is the disk full?)") from None
            count += 1
    # ffmpeg's exit status is not to be had here, and on a full disk it ends early without a word.
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except RuntimeError:
        written = 0
    if written != count:
        raise OSError(f"ffmpeg wrote {written} of {count} frames (is the disk full?)")
    return count


def _draw_trails(canvas: np.ndarray, path: np.ndarray, width: float) -> None:
    """Lines along path (T, K, 2), drawn into `canvas`: thinner and fainter with age."""
    if path.ndim != 3 or path.shape[2] != 2:
        raise ValueError(f"trails must be (T, K, 2), not {(len(path) - 1, *path.shape[1:])}")
    opacity = np.zeros(canvas.shape[:2], np.uint8)
    paint = np.zeros_like(canvas)
    steps = len(path) - 1
    path = np.where(np.isfinite(path), path, np.nan)
    moved = np.abs(np.diff(path, axis=0)).max(axis=-1)
    for step in range(steps):
        freshness = (step + 1) / steps
        thickness = max(1, round(width * (0.35 + 0.65 * freshness)))
        for index in np.flatnonzero(moved[step] <= TRAIL_BREAK):
            start, end = (_fixed(_to_pixels(place, canvas)) for place in path[step : step + 2, index])
            # The colour is laid a little wider than the opacity, so that the soft edge of a line has its own colour.
            cv2.line(paint, start, end, keypoint_color(int(index)), thickness + 2, cv2.LINE_8, _SHIFT)
            cv2.line(opacity, start, end, round(240 * freshness**1.4), thickness, cv2.LINE_AA, _SHIFT)
    seen = opacity > 0
    weight = opacity[seen][:, None].astype(np.uint16)
    canvas[seen] = ((255 - weight) * canvas[seen] + weight * paint[seen] + 127) // 255


def _draw_marker(
    canvas: np.ndarray, centre: np.ndarray, radius: float, index: int, corners: tuple[tuple[float, float], ...]
) -> None:
    outline = max(1.5, radius * 0.4)
    for color, size in ((OUTLINE, radius + outline), (keypoint_color(index), radius)):
        if corners:
            shape = np.array([_fixed(centre + size * np.array(corner)) for corner in corners], np.int32)
            cv2.fillConvexPoly(canvas, shape, color, cv2.LINE_AA, _SHIFT)
        else:
            cv2.circle(canvas, _fixed(centre), _fixed(np.array([size]))[0], color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_label(canvas: np.ndarray, centre: np.ndarray, radius: float, index: int) -> None:
    text, size = str(index), max(0.42, radius / 10)
    offset = 1.8 * radius
    x, y = centre[0] + offset, centre[1] - offset / 2
    if x + _text_width(text, size) > canvas.shape[1]:
        x = centre[0] - offset - _text_width(text, size)
    left, baseline = round(x), round(max(y, 2.5 * radius))
    # Fonts differ between versions of OpenCV in what a thick line is; the outline is the text itself, moved all around.
    for dx, dy in itertools.product((-1, 0, 1), repeat=2):
        cv2.putText(canvas, text, (left + dx, baseline + dy), _FONT, size, OUTLINE, 1, cv2.LINE_AA)
    cv2.putText(canvas, text, (left, baseline), _FONT, size, keypoint_color(index), 1, cv2.LINE_AA)


def _to_pixels(place: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Where in `canvas` coordinates (x, y) lie, in pixels; whole numbers are the centres of pixels, as OpenCV has it."""
    height, width = canvas.shape[:2]
    return (np.asarray(place) + 1) / 2 * (width, height) - 0.5


def _fixed(values: np.ndarray) -> tuple[int, ...]:
    # Far outside is outside: OpenCV's numbers end where a keypoint that diverged may lie.
    return tuple(int(value) for value in np.rint(np.clip(values, -(2**14), 2**14) * 2**_SHIFT))


def _text_width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0]) if text else 0


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _require_frame(frame: np.ndarray) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        raise TypeError(f"a frame must be a uint8 array, not {getattr(frame, 'dtype', type(frame).__name__)}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a frame must be RGB, (H, W, 3), not {frame.shape}")
