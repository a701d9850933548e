from __future__ import annotations

import itertools
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent import drawing
from kpagent.drawing import PALETTE, add_caption, contact_sheet, draw_keypoints, keypoint_color, write_png, write_video
from kpagent.errors import UsageError

GREY = np.full((40, 60, 3), 90, np.uint8)


def changed(picture: np.ndarray, value: int = 90) -> np.ndarray:
    return (picture != value).any(axis=-1)


def gradient(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Frames that differ in a way that survives compression: each is one colour, brighter than the last."""
    return [np.full((height, width, 3), (40 + 15 * i, 120, 200 - 10 * i), np.uint8) for i in range(count)]


def decode(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    video.release()
    return frames


@given(column=st.integers(2, 57), row=st.integers(2, 37), scale=st.integers(1, 6), index=st.integers(0, 40))
def test_marker_has_its_colour_at_the_pixel_of_its_coordinate(column: int, row: int, scale: int, index: int) -> None:
    xy = np.full((index + 1, 2), np.nan)
    xy[index] = (2 * column + 1) / 60 - 1, (2 * row + 1) / 40 - 1
    picture = draw_keypoints(GREY, xy, scale=scale)
    centre = [slice(i * scale + (scale - 1) // 2, i * scale + scale // 2 + 1) for i in (row, column)]
    assert (picture[centre[0], centre[1]] == keypoint_color(index)).all()


@given(index=st.integers(0, 9))
def test_a_keypoint_that_is_set_apart_is_a_large_triangle_on_top_of_all(index: int) -> None:
    xy = np.zeros((10, 2))
    plain = draw_keypoints(GREY, xy, scale=10)
    apart = draw_keypoints(GREY, xy, triangle=index, scale=10)
    coloured = (apart == keypoint_color(index)).all(axis=-1)
    assert tuple(apart[200, 300]) == keypoint_color(index)
    # Nothing of the others, which lie in the same place, is to be seen.
    others = np.array([keypoint_color(other) for other in range(10) if keypoint_color(other) != keypoint_color(index)])
    assert not (apart[:, :, None] == others).all(axis=-1).any()
    assert coloured.sum() > 2.5 * np.pi * (400 / 110) ** 2
    # Wider below than above.
    rows = np.nonzero(coloured.any(axis=1))[0]
    assert coloured[rows[-3]].sum() > 3 * coloured[rows[2]].sum()
    np.testing.assert_array_equal(draw_keypoints(GREY, xy, triangle=None, scale=10), plain)


def test_x_is_right_y_is_down_and_one_is_the_outer_edge() -> None:
    for xy, (row, column) in {(-1, -1): (0, 0), (1, -1): (0, 59), (-1, 1): (39, 0), (1, 1): (39, 59)}.items():
        picture = draw_keypoints(GREY, np.array([xy]), scale=1)
        assert tuple(picture[row, column]) == keypoint_color(0)
        assert changed(picture).sum() < 40


def test_marker_lies_evenly_around_its_coordinate() -> None:
    picture = draw_keypoints(GREY, np.array([[0.0, 0.0]]), scale=8)
    rows, columns = np.nonzero(changed(picture))
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (40 * 8 - 1, 60 * 8 - 1)


def test_frame_is_enlarged_pixel_by_pixel_and_left_alone() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (21, 16, 3), dtype=np.uint8)
    before = frame.copy()
    picture = draw_keypoints(frame, np.array([[np.nan, np.nan]]), scale=3)
    for row, column in itertools.product(range(63), range(48)):
        assert (picture[row, column] == frame[row // 3, column // 3]).all()
    draw_keypoints(frame, np.zeros((1, 2)), trails=np.full((3, 1, 2), 0.3), labels=True, scale=1)
    assert (frame == before).all()
    assert not np.shares_memory(draw_keypoints(frame, np.full((1, 2), np.nan), scale=1), frame)


def test_a_read_only_frame_can_be_drawn_on() -> None:
    frame = np.broadcast_to(np.uint8(90), (40, 60, 3))
    assert changed(draw_keypoints(frame, np.zeros((1, 2)), scale=1)).any()


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
def test_every_marker_stands_out_from_any_grey(level: int) -> None:
    frame = np.full((60, 60, 3), level, np.uint8)
    for index in range(len(PALETTE)):
        xy = np.full((index + 1, 2), np.nan)
        xy[index] = 0
        contrast = np.abs(draw_keypoints(frame, xy, scale=4).astype(int) - level).max(axis=-1)
        assert (contrast > 90).sum() > 20


def test_absent_keypoints_are_not_drawn() -> None:
    xy = np.array([[-0.5, 0.0], [0.5, 0.0]])
    picture = draw_keypoints(GREY, xy, presence=np.array([0.2, 0.9]), scale=2)
    assert not changed(picture)[:, :60].any()
    assert changed(picture)[:, 60:].any()
    assert not changed(draw_keypoints(GREY, xy, presence=np.array([0.2, 0.9]), threshold=0.95)).any()


def test_trails_fade_with_age() -> None:
    steps = np.linspace(-0.8, 0.8, 9)
    path = np.stack([steps, np.zeros(9)], axis=-1)[:, None]
    picture = draw_keypoints(GREY, path[-1], trails=path[:-1], scale=10)
    middle = picture[200].astype(int)
    columns = [round((x + 1) / 2 * 600) for x in (steps[:-1] + steps[1:])[:-1] / 2]
    strength = [np.abs(middle[column] - 90).sum() for column in columns]
    assert strength == sorted(strength)
    assert 0 < strength[0] < 0.2 * strength[-1]
    tint = middle[columns[-1]] - 90
    assert np.dot(tint, np.array(keypoint_color(0)) - 90) > 0.95 * np.linalg.norm(tint) * np.linalg.norm(
        np.array(keypoint_color(0)) - 90
    )


def test_trails_end_where_a_keypoint_was_absent_or_jumped() -> None:
    here = np.array([[0.8, 0.0]])
    nowhere = np.full((1, 2), np.nan)
    alone = draw_keypoints(GREY, here, scale=4)
    for earlier in ([nowhere, nowhere], [np.array([[0.6, 0.0]]), nowhere], [np.array([[-0.8, 0.0]])], []):
        trails = np.array(earlier).reshape(-1, 1, 2)
        assert (draw_keypoints(GREY, here, trails=trails, scale=4) == alone).all()


def test_a_keypoint_far_outside_or_infinite_does_no_harm() -> None:
    for xy in ([[1e30, -1e30]], [[np.inf, 0.0]], [[-5.0, 7.0]]):
        trails = np.array([[[0.0, 0.0]], xy])
        assert not changed(draw_keypoints(GREY, np.array(xy), trails=trails, labels=True, scale=2)).any()


def test_labels_stay_inside_and_change_nothing_else() -> None:
    plain = draw_keypoints(GREY, np.array([[0.97, -0.97]]), scale=8)
    labelled = draw_keypoints(GREY, np.array([[0.97, -0.97]]), labels=True, scale=8)
    written = (plain != labelled).any(axis=-1)
    rows, columns = np.nonzero(written)
    assert written.sum() > 10
    assert rows.max() < 60
    assert columns.min() > 400


@pytest.mark.parametrize(
    ("shape", "height"), [((210, 160), 630), ((84, 84), 588), ((64, 64), 640), ((400, 600), 400), ((900, 900), 900)]
)
def test_default_scale_is_whole_and_close_to_640(shape: tuple[int, int], height: int) -> None:
    assert draw_keypoints(np.zeros((*shape, 3), np.uint8), np.zeros((1, 2))).shape[0] == height


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        draw_keypoints(GREY / 255, np.zeros((1, 2)))
    for arguments in (
        {"frame": GREY[..., 0], "xy": np.zeros((1, 2))},
        {"frame": GREY, "xy": np.zeros((1, 3))},
        {"frame": GREY, "xy": np.zeros((2, 2)), "presence": np.ones(3)},
        {"frame": GREY, "xy": np.zeros((2, 2)), "trails": np.zeros((4, 3, 2))},
        {"frame": GREY, "xy": np.zeros((2, 2)), "trails": np.zeros((2, 2))},
        {"frame": GREY, "xy": np.zeros((2, 2)), "scale": 0},
    ):
        with pytest.raises(ValueError, match="must"):
            draw_keypoints(**arguments)  # type: ignore[arg-type]


def test_palette_is_told_apart_by_the_colour_blind() -> None:
    # Machado, Oliveira, Fernandes 2009, severity 1.0; they apply to linear RGB.
    sights = {
        "full": np.eye(3),
        "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    rgb = np.array(PALETTE) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in sights.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(encoded[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(lab, 2)) > 20


def test_colour_and_shape_together_are_stable_and_distinct() -> None:
    looks = {}
    for index in range(32):
        xy = np.full((index + 1, 2), np.nan)
        xy[index] = 0
        looks[index] = draw_keypoints(GREY, xy, scale=6).tobytes()
    assert len(set(looks.values())) == 32
    assert keypoint_color(3) == keypoint_color(11) == PALETTE[3]


def test_caption_keeps_the_frame_and_drops_what_does_not_fit() -> None:
    frame = np.full((300, 400, 3), 90, np.uint8)
    captioned = add_caption(frame, "ALE/Pong-v5", "interaction 12")
    strip = captioned[300:]
    assert (captioned[:300] == frame).all()
    assert captioned.shape[0] % 2 == 0
    assert 15 < len(strip) < 40
    bright = np.flatnonzero((strip > 100).any(axis=(0, 2)))
    assert 0 < bright.min() < 20
    assert 380 < bright.max() < 400
    assert (add_caption(frame, "long " * 24, "right") == add_caption(frame, "long " * 30)).all()


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (12, 6, 2), (12, 1, 12)])
def test_contact_sheet_has_each_frame_in_reading_order(count: int, columns: int, rows: int) -> None:
    frames = gradient(count, 10, 14)
    sheet = contact_sheet(frames, columns, gap=3)
    across = min(columns, count)
    assert sheet.shape == (rows * 13 + 3, across * 17 + 3, 3)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        top, left = 3 + 13 * row, 3 + 17 * column
        assert (sheet[top : top + 10, left : left + 14] == frame).all()
    outside = sheet.shape[0] * sheet.shape[1] - count * 140
    assert (sheet == drawing.OUTLINE).all(axis=-1).sum() == outside


def test_contact_sheet_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ValueError, match="needs frames"):
        contact_sheet([], 3)
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([GREY, GREY[1:]], 3)


def test_png_comes_back_as_it_was(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (21, 16, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "frame.png", frame)
    back = cv2.imread(str(tmp_path / "new" / "frame.png"))
    assert back is not None
    assert (back[..., ::-1] == frame).all()
    assert os.listdir(tmp_path / "new") == ["frame.png"]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 97)])
def test_video_comes_back_near_to_what_it_was(
    tmp_path: Path, height: int, width: int, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = gradient(9, height, width)
    assert write_video(tmp_path / "new" / "play.mp4", iter(frames), fps=12) == 9
    video = cv2.VideoCapture(str(tmp_path / "new" / "play.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 12
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"h264", b"avc1")
    video.release()
    for frame, back in zip(frames, decode(tmp_path / "new" / "play.mp4"), strict=True):
        assert back.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(back.astype(int) - frame[0, 0]).max() <= 6
    assert os.listdir(tmp_path / "new") == ["play.mp4"]
    assert capfd.readouterr() == ("", "")


def test_markers_keep_their_colour_in_the_video(tmp_path: Path) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    places = [-0.5, 0.0, 0.5]
    frames = (draw_keypoints(black, np.array([[x, 0.0], [0.0, 0.9]])) for x in places for _ in range(4))
    write_video(tmp_path / "play.mp4", frames)
    decoded = decode(tmp_path / "play.mp4")
    assert len(decoded) == 12
    for index, back in enumerate(decoded):
        column = round((places[index // 4] + 1) / 2 * back.shape[1] - 0.5)
        assert np.abs(back[319:321, column].astype(int) - keypoint_color(0)).max() < 40


def test_a_video_of_many_frames_is_small(tmp_path: Path) -> None:
    pong = np.full((210, 160, 3), (144, 72, 17), np.uint8)
    xs = np.linspace(-0.9, 0.9, 150)
    write_video(tmp_path / "play.mp4", (draw_keypoints(pong, np.array([[x, 0.2]])) for x in xs))
    assert (tmp_path / "play.mp4").stat().st_size < 300_000


def test_what_the_frames_raise_goes_through_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "play.mp4"
    path.write_bytes(b"old")

    def frames(error: BaseException) -> Iterator[np.ndarray]:
        yield from gradient(5)
        raise error

    for error in (KeyboardInterrupt(), RuntimeError("the env broke")):
        with pytest.raises(type(error)):
            write_video(path, frames(error))
    with pytest.raises(ValueError, match="one size"):
        write_video(path, [GREY, GREY[2:]])
    with pytest.raises(UsageError, match="no frames"):
        write_video(path, [])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["play.mp4"]


def test_a_writer_killed_in_the_middle_leaves_no_video(tmp_path: Path) -> None:
    code = f"""
import os, signal, numpy as np
from kpagent.drawing import write_video
def frames():
    for i in range(50):
        yield np.full((64, 64, 3), i, np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)
write_video({str(tmp_path / "play.mp4")!r}, frames())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "play.mp4").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 256, 256, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UsageError, match=r"cannot write .*play\.mp4.*disk full") as caught:
            write_video(tmp_path / "play.mp4", noise)
        with pytest.raises(UsageError, match=r"cannot write .*sheet\.png: file too large"):
            write_png(tmp_path / "sheet.png", noise[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["play.avi", "play", "folder.mp4", "file.txt/play.mp4"])
def test_a_path_that_cannot_be_written_is_known_before_the_first_frame(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()

    asked = []
    frames = (asked.append(frame) or frame for frame in gradient(2))  # type: ignore[func-returns-value]
    path = tmp_path / name
    with pytest.raises(UsageError, match=re.escape(f"cannot write {path}: ")) as caught:
        write_video(path, frames)
    assert not asked
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot write"):
        write_png(str(path).replace("mp4", "png"), GREY)


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_fps_must_be_positive(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="fps must be above 0"):
        write_video(tmp_path / "play.mp4", gradient(2), fps=fps)
