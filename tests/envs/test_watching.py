from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch

from kpagent.drawing import PALETTE
from kpagent.envs.recording import SHEET_FRAMES
from kpagent.envs.watching import format_observation, watch
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.perception.transporter import Transporter, TransporterConfig

SIZE, SCALE = 32, 20
STRIDE = 3


class Dot(gym.Env[Any, Any]):
    """A white dot on black that moves right by `STRIDE` pixels an interaction; an episode ends after `length` of them."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, length: int = 8, as_image: bool = True, render_mode: str | None = None) -> None:
        image = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.observation_space = image if as_image else gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(5)
        self.render_mode = render_mode
        self._length, self._as_image, self._age = length, as_image, 0
        self.actions: list[int] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._age = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._age += 1
        self.actions.append(int(action))
        return self._observation(), 0.0, self._age == self._length, False, {}

    def render(self) -> Any:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame[10, 4 + STRIDE * self._age] = 255
        return frame

    def close(self) -> None:
        self.closed = True

    def _observation(self) -> np.ndarray:
        return self.render() if self._as_image else np.zeros(1, np.float32)


class DotFinder:
    """Finds the brightest pixel; a second keypoint is never there."""

    num_keypoints, feature_dim = 2, 1

    def encode(self, frames: np.ndarray, *, features: bool = True) -> Keypoints:
        places = [np.unravel_index(frame[..., 0].argmax(), frame.shape[:2]) for frame in frames]
        xy = np.array([[[(2 * c + 1) / SIZE - 1, (2 * r + 1) / SIZE - 1], [0.5, 0.5]] for r, c in places], np.float32)
        presence = np.tile(np.array([1, 0], np.float32), (len(frames), 1))
        return Keypoints(xy, presence, np.ones((len(frames), 2, 1), np.float32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    Transporter(TransporterConfig.fast(5)).save(path, inference_only=True)
    return path


def decode(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1].astype(int))
    video.release()
    return frames


def at(picture: np.ndarray, row: float, column: float) -> np.ndarray:
    return picture[round((row + 0.5) * SCALE), round((column + 0.5) * SCALE)]


def test_pong_by_its_id_and_a_weights_file(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "new" / "pong.mp4"
    report = watch("ALE/Pong-v5", weights, out=out, steps=30, progress=lambda *done: seen.append(done))
    assert (report.video, report.sheet) == (out, out.with_suffix(".png"))
    assert sorted(os.listdir(out.parent)) == ["pong.mp4", "pong.png"]
    assert [frame.shape for frame in decode(out)] == [(662, 480, 3)] * 30
    assert report.interactions == 30
    assert report.interactions_per_s > 1
    assert {name: value.shape for name, value in report.observation.items()} == {
        "xy": (5, 2),
        "presence": (5,),
        "features": (5, 32),
    }
    sheet = cv2.imread(str(report.sheet))
    assert sheet is not None
    assert sheet.shape[1] == 6 * (2 * 160 + 8) + 8
    assert 2 * (2 * 210 + 8) + 8 < sheet.shape[0] < 2 * (2 * 210 + 40)
    assert seen == [(i, 30) for i in range(1, 31)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("as_image", [True, False])
def test_each_frame_has_the_marker_of_its_own_interaction(tmp_path: Path, as_image: bool) -> None:
    env = Dot(length=100, as_image=as_image, render_mode=None if as_image else "rgb_array")
    watch(env, DotFinder(), out=tmp_path / "dot.mp4", steps=8)
    frames = decode(tmp_path / "dot.mp4")
    assert len(frames) == 8
    for age, frame in enumerate(frames, start=1):
        assert np.abs(at(frame, 10, 4 + STRIDE * age) - PALETTE[0]).max() < 50
        before = at(frame, 10, 4 + STRIDE * (age - 0.5))
        assert before @ np.array(PALETTE[0]) > 0.9 * np.linalg.norm(before) * np.linalg.norm(PALETTE[0])
        assert 30 < before.max() < 256
        # The absent keypoint at (0.5, 0.5) is nowhere.
        assert at(frame, 23.5, 23.5).max() < 20
    assert not env.closed


def test_trails_start_anew_with_an_episode(tmp_path: Path) -> None:
    watch(Dot(length=3), DotFinder(), out=tmp_path / "dot.mp4", steps=4)
    first, _, third, fourth = decode(tmp_path / "dot.mp4")
    assert at(third, 10, 4 + STRIDE * 1.6).max() > 30
    # Interaction 4 is the first of the second episode: its trail comes from the left, where episodes begin, not the right.
    assert at(fourth, 10, 4 + STRIDE * 0.5).max() > 30
    assert at(fourth, 10, 4 + STRIDE * 1.6).max() < 15
    assert np.abs(first[:600] - fourth[:600]).max() < 40


def test_a_policy_is_asked_with_the_observation_and_its_action_is_played(tmp_path: Path) -> None:
    env = Dot(length=4)
    asked: list[dict[str, np.ndarray]] = []

    def policy(observation: dict[str, np.ndarray]) -> int:
        asked.append(observation)
        return len(asked) % 5

    report = watch(env, DotFinder(), out=tmp_path / "dot.mp4", steps=6, policy=policy)
    assert env.actions == [1, 2, 3, 4, 0, 1]
    columns = [round((float(o["xy"][0, 0]) + 1) / 2 * SIZE - 0.5) for o in asked]
    assert columns == [4 + STRIDE * age for age in (0, 1, 2, 3, 0, 1)]
    assert report.observation["xy"][0, 0] == pytest.approx((2 * (4 + STRIDE * 2) + 1) / SIZE - 1)


def test_the_random_policy_is_uniform_and_follows_the_seed(tmp_path: Path) -> None:
    def actions(seed: int) -> list[int]:
        env = Dot()
        watch(env, DotFinder(), out=tmp_path / "dot.mp4", steps=80, seed=seed)
        return env.actions

    first = actions(0)
    assert first == actions(0)
    assert first != actions(1)
    assert min(np.bincount(first, minlength=5)) > 5


def test_the_speed_is_that_of_the_environment_alone(tmp_path: Path) -> None:
    def policy(observation: Any) -> int:
        time.sleep(0.02)
        return 0

    report = watch(Dot(), DotFinder(), out=tmp_path / "dot.mp4", steps=10, policy=policy)
    assert report.interactions_per_s > 100


def test_one_interrupt_ends_the_play_and_keeps_it_whole(tmp_path: Path) -> None:
    env = Dot()

    def policy(observation: Any) -> int:
        if len(env.actions) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return 0

    before = signal.getsignal(signal.SIGINT)
    report = watch(env, DotFinder(), out=tmp_path / "dot.mp4", steps=10_000, policy=policy)
    assert report.interactions == len(decode(report.video)) == 7
    assert report.sheet.is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def policy(observation: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    with pytest.raises(KeyboardInterrupt):
        watch(Dot(), DotFinder(), out=tmp_path / "dot.mp4", policy=policy)
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_policy_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "dot.mp4").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        watch(Dot(), DotFinder(), out=tmp_path / "dot.mp4", policy=lambda _: 1 // 0)
    assert os.listdir(tmp_path) == ["dot.mp4"]
    assert (tmp_path / "dot.mp4").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"trail": -1}, "trail must be at least 0, not -1"),
        ({"fps": 0}, "fps must be above 0, not 0"),
        ({"out": "play.gif"}, "cannot write play.gif: its name must end in .mp4"),
        ({"out": "{tmp}/taken.mp4"}, "taken.png: it is a folder"),
        ({"out": "{tmp}/file.txt/play.mp4"}, "file.txt/play.mp4: "),
        ({"env": "ALE/Pung-v5"}, "ALE/Pong-v5"),
        ({"env": Dot(as_image=False)}, "render_mode"),
        ({"keypoints": "no/such.safetensors"}, "no/such.safetensors"),
        ({"keypoints": "pnog"}, "pnog"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_played(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "file.txt").touch()
    there = sorted(os.listdir(tmp_path))
    out = str(changes.pop("out", tmp_path / "play.mp4")).replace("{tmp}", str(tmp_path))
    arguments: dict[str, Any] = {"env": Dot(), "keypoints": DotFinder()} | changes
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        watch(**arguments, out=out, policy=lambda _: pytest.fail("was asked for an action"))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == there


def test_an_observation_is_printed_with_two_decimals_and_no_minus_zero() -> None:
    observation = {
        "xy": np.array([[0.12345, -0.5], [-0.001, 1.0]], np.float32),
        "presence": np.ones(2, np.float32),
        "features": np.arange(200, dtype=np.float32).reshape(2, 100),
    }
    assert format_observation(observation).splitlines() == [
        "xy (2, 2)",
        "    [[ 0.12 -0.50]",
        "     [ 0.00  1.00]]",
        "presence (2,)",
        "    [1.00 1.00]",
        "features (2, 100)",
        "    [[  0.00   1.00   2.00 ...  97.00  98.00  99.00]",
        "     [100.00 101.00 102.00 ... 197.00 198.00 199.00]]",
    ]


def test_the_sheet_has_as_many_frames_as_there_were(tmp_path: Path) -> None:
    heights = {}
    for steps in (1, SHEET_FRAMES):
        report = watch(Dot(), DotFinder(), out=tmp_path / "dot.mp4", steps=steps)
        sheet = cv2.imread(str(report.sheet))
        assert sheet is not None
        heights[steps] = sheet.shape
    assert heights[1][1] == SIZE * SCALE // 2 + 16
    assert heights[SHEET_FRAMES][1] == 4 * (SIZE * SCALE // 2 + 8) + 8
    assert heights[SHEET_FRAMES][0] - 8 == 3 * (heights[1][0] - 8)
