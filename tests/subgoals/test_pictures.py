"""Pixels of pictures of keyframes: what stands where, and in which colour."""

from __future__ import annotations

import numpy as np
import pytest

from kpagent.drawing import keypoint_color
from kpagent.subgoals.pictures import DIM, FOUND, PLAIN, TRUE, Strip, draw_keyframes, draw_samples, draw_ways

SIZE, SCALE = 16, 4
LEFT, BAND, BAR, BORDER, GAP, HEAT = 104, 20, 5, 3, 4, 10
PITCH = SIZE * SCALE + 2 * BORDER + GAP
ROW = BAR + SIZE * SCALE + 2 * BORDER + GAP


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, SIZE, SIZE, 3), dtype=np.uint8)


def cell(picture: np.ndarray, row: int, column: int, above: int = 0) -> np.ndarray:
    """A frame, at the size that it has."""
    top, left = BAND + above + row * ROW + BAR + BORDER, LEFT + column * PITCH + BORDER
    return picture[top : top + SIZE * SCALE : SCALE, left : left + SIZE * SCALE : SCALE]


def test_a_sequence_its_keyframes_and_its_reconstruction() -> None:
    frames, made = noise(7), noise(5)[::-1]
    times = np.zeros((2, 7))
    times[0, 3], times[1, 5] = 1.0, 0.25
    rebuilt = Strip("rebuilt", made, np.array([3, 5, 9]), start=2)
    alone = Strip("alone", made, np.array([3]), start=2, sparse=True)
    picture = draw_keyframes(frames, np.array([3, 5, 9]), np.array([4, 5]), times=times, below=[rebuilt, alone])
    above = 2 * HEAT + GAP
    assert (picture.shape, picture.dtype) == ((BAND + above + 3 * ROW, LEFT + 7 * PITCH, 3), np.uint8)
    for column in range(7):
        np.testing.assert_array_equal(cell(picture, 0, column), frames[column])
        border = picture[BAND + BAR, LEFT + column * PITCH]
        assert tuple(border) == (FOUND if column in (3, 5) else PLAIN)
        bar = picture[BAND, LEFT + column * PITCH]
        assert (tuple(bar) == TRUE) == (column in (4, 5))
    for column in range(5):
        np.testing.assert_array_equal(cell(picture, 1, 2 + column, above), made[column])
    np.testing.assert_array_equal(cell(picture, 2, 3, above), made[1])
    # Nothing stands where a strip has no frame, or shows none.
    for row, column in ((1, 0), (1, 1), (2, 2), (2, 4)):
        assert np.ptp(cell(picture, row, column, above)) <= 4
    heat = picture[BAND + ROW : BAND + ROW + 2 * HEAT, LEFT + PITCH // 2 :: PITCH].astype(int).sum(axis=-1)
    assert heat.shape == (2 * HEAT, 7)
    assert np.argmax(heat[1]) == 3
    assert np.argmax(heat[HEAT + 1]) == 5
    assert heat[1, 3] > heat[HEAT + 1, 5] > heat[1, 0]


def test_keypoints_are_drawn_on_frames() -> None:
    frames = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    keypoints = np.array([[[0.5, -0.5]], [[-0.5, 0.5]], [[np.nan, 0.0]]])
    picture = draw_keyframes(frames, np.array([1]), keypoints=keypoints)
    for column, place in ((0, (12, 4)), (1, (4, 12))):
        shown = cell(picture, 0, column)
        assert tuple(shown[place[1], place[0]]) == keypoint_color(0)
        assert not shown[place[0], place[1]].any()
    assert not cell(picture, 0, 2).any()


def test_large_frames_are_not_made_smaller() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 80, 96, 3), dtype=np.uint8)
    picture = draw_keyframes(frames, np.array([], np.int64), size=64)
    top, left = BAND + BAR + BORDER, LEFT + BORDER
    np.testing.assert_array_equal(picture[top : top + 80, left : left + 96], frames[0])


def test_a_whole_trajectory_in_one_picture() -> None:
    """Against a loop over pixels."""
    samples = noise(2, 6)
    keyframes = [np.array([1, 4, 6]), np.array([], np.int64)]
    picture = draw_samples(samples, keyframes, size=SIZE)
    assert picture.shape == (SIZE + 16, 2 * (SIZE + 8) + 8, 3)
    for number, (frames, numbers) in enumerate(zip(samples, keyframes, strict=True)):
        shown = picture[8 : 8 + SIZE, 8 + number * (SIZE + 8) :][:, :SIZE]
        for y, x in ((0, 0), (3, 7), (15, 15)):
            usual = np.median(frames[:, y, x].astype(float), axis=0)
            changes = [(1 if t in numbers else DIM) * (frames[t, y, x] - usual) for t in range(6)]
            most = max(changes, key=lambda change: np.abs(change).sum())
            np.testing.assert_allclose(shown[y, x], usual + most, atol=0.51)


def test_ways_of_keypoints() -> None:
    backdrop = np.full((SIZE, SIZE, 3), 100, np.uint8)
    keypoints = np.zeros((2, 4, 1, 2))
    keypoints[0, :, 0, 0] = (-0.6, -0.2, 0.2, 0.6)
    keypoints[1, :, 0, 1] = (-0.6, -0.2, 0.2, 0.6)
    keyframes = [np.array([0, 7]), np.array([1])]
    picture = draw_ways(backdrop, keypoints, keyframes, size=160, names=["one", "other"], columns=1)
    assert picture.shape[1] == 160 + 16
    for number, marked in enumerate((-0.6, -0.2)):
        shown = picture[8 + number * (len(picture) - 8) // 2 :, 8:][:160, :160]
        for at in (marked, 0.6):
            place = round((at + 1) / 2 * 160)
            x, y = (place, 80) if number == 0 else (80, place)
            assert tuple(shown[y, x]) == keypoint_color(0)
    assert tuple(picture[20, 20]) == (int(DIM * 100),) * 3


def test_what_does_not_fit_together_is_refused() -> None:
    frames = noise(4)
    with pytest.raises(ValueError, match="frames of all strips must have one size"):
        draw_keyframes(frames, np.array([1]), below=[Strip("a", frames[:, :8])])
    with pytest.raises(ValueError, match=r"times must be \(M, L\) of at most 4 frames"):
        draw_keyframes(frames, np.array([1]), times=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="shorter"):
        draw_samples(frames[None], [])
    with pytest.raises(TypeError, match="uint8"):
        draw_keyframes(frames.astype(float), np.array([1]), keypoints=np.zeros((4, 1, 2)))
