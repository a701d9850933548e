from pathlib import Path

import cv2
import numpy as np
import pytest

from kpagent.benchmarks.atari100k_figures import COLOURS, Bar, Curve, draw_bars, draw_curves
from kpagent.errors import UsageError


def colours(path: Path) -> tuple[tuple[int, ...], set[str]]:
    read = cv2.imread(str(path))
    assert read is not None
    image = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    counted, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return image.shape, {"#{:02X}{:02X}{:02X}".format(*colour) for colour in counted[counts >= 20]}


def test_bars_of_ours_are_coloured_and_published_ones_grey(tmp_path: Path) -> None:
    panels = {
        "pong": [Bar("KeyQN", 0.9, (0.8, 1.0)), Bar("PPO on pixels", -0.01), Bar("BBF", 1.05, published=True)],
        "all (IQM)": [Bar("KeyQN", 0.5, (0.4, 0.7)), Bar("Other", 0.3)],
    }
    path = tmp_path / "pictures" / "bars.png"
    draw_bars(path, panels)
    shape, found = colours(path)
    assert shape[1] > shape[0] > 100
    assert {COLOURS["KeyQN"], "#BBBBBB"} <= found
    draw_bars(path, {"pong": panels["pong"][1:2]})
    assert "#BBBBBB" not in colours(path)[1]


def test_curves_show_each_method_in_its_colour(tmp_path: Path) -> None:
    at = np.array([50_000.0, 100_000.0])
    scores = np.array([[np.nan, -10.0], [np.nan, 5.0]])
    panels = {
        "pong": [Curve("KeyQN", at, scores), Curve("mine", at, scores + 5)],
        "breakout": [Curve("DQN on pixels", at, np.array([[1.0, 2.0]])), Curve("KeyQN", at, np.full((2, 2), np.nan))],
    }
    draw_curves(tmp_path / "curves.png", panels)
    assert {COLOURS["KeyQN"], COLOURS["DQN on pixels"]} <= colours(tmp_path / "curves.png")[1]


def test_a_curve_of_games_is_the_mean_of_those_that_ended_in_each_stretch() -> None:
    seeds = [[[10, 1.0], [25, 3.0], [26, 5.0], [100, 9.0]], [[30, 2.0]], []]
    curve = Curve.of_games("KeyQN", seeds, 100, points=4)
    assert curve.interactions.tolist() == [25, 50, 75, 100]
    np.testing.assert_array_equal(curve.scores, [[2, 5, np.nan, 9], [np.nan, 2, np.nan, np.nan], [np.nan] * 4])


def test_a_curve_needs_a_score_for_each_point() -> None:
    with pytest.raises(ValueError, match=r"must be \(S, N\)"):
        Curve("KeyQN", np.arange(3), np.zeros((2, 2)))


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        draw_bars(tmp_path / "file" / "bars.png", {"pong": [Bar("KeyQN", 1.0)]})
