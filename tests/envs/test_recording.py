from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kpagent.envs.making import make_env
from kpagent.envs.recording import Spread, film_title, record, visible_xy


@dataclass(frozen=True)
class Shade:
    """A grey picture, as bright as its number."""

    number: int
    frame: np.ndarray
    title: str = "shades"

    @property
    def note(self) -> str:
        return f"shade {self.number}"

    def draw(self, scale: int) -> np.ndarray:
        height, width = self.frame.shape[:2]
        return np.full((scale * height, scale * width, 3), 4 * self.number, np.uint8)


def test_a_film_has_every_scene_and_the_sheet_twelve_at_half_the_size(tmp_path: Path) -> None:
    frame = np.zeros((60, 40, 3), np.uint8)
    filmed: list[int] = []
    scenes = (Shade(number, frame) for number in range(60))
    last = record(scenes, tmp_path / "film.mp4", on_scene=lambda scene: filmed.append(scene.number))
    assert (last.number, filmed) == (59, list(range(60)))
    assert sorted(os.listdir(tmp_path)) == ["film.mp4", "film.png"]
    video = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    seen = [video.read()[1] for _ in filmed]
    assert not video.read()[0]
    video.release()
    assert [abs(int(picture[300, 200, 0]) - 4 * number) <= 3 for number, picture in enumerate(seen)] == [True] * 60
    sheet = cv2.imread(str(tmp_path / "film.png"))
    assert sheet is not None
    # 640 // 60 = 10 times in the video, 5 times here.
    assert sheet.shape[1] == 6 * (5 * 40 + 8) + 8
    across = sheet[8 + 150, 8 + 100 :: 5 * 40 + 8, 0]
    assert across[:6].tolist() == [4 * number for number in (2, 7, 12, 17, 22, 27)]


def test_absent_keypoints_are_not_visible() -> None:
    observation = {"xy": np.array([[0.1, 0.2], [0.3, 0.4]], np.float32), "presence": np.array([0.4, 0.5], np.float32)}
    np.testing.assert_array_equal(visible_xy(observation), [[np.nan, np.nan], observation["xy"][1]])


def test_a_film_is_called_as_its_environment() -> None:
    assert film_title(gym.wrappers.FlattenObservation(make_env("CartPole-v1", render_mode="rgb_array"))) == "CartPole-v1"
    assert film_title(gym.Env()) == "Env"


@given(offered=st.integers(1, 5000), count=st.integers(1, 20))
def test_moments_are_spread_evenly_however_many_come(offered: int, count: int) -> None:
    spread = Spread[int](count)
    for item in range(offered):
        spread.offer(item)
        assert len(spread._kept) < 8 * count
    picked = spread.pick()
    assert spread.last == offered - 1
    assert len(picked) == min(count, offered)
    ideal = [(part + 0.5) / len(picked) * offered for part in range(len(picked))]
    assert max(abs(a - b) for a, b in zip(picked, ideal, strict=True)) <= max(1, offered / count / 2)
