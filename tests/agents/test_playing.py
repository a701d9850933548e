from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from keypoint_games import KeypointGame, Seen

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.playing import _play, play
from kpagent.envs.players import OBJECTS, make_player
from kpagent.errors import UsageError

LENGTH = 12


class Lives(KeypointGame):
    """A keypoint that every action moves; a life is lost every fourth step, and the game is over with the third."""

    actions = 3
    render_mode = "rgb_array"

    def __init__(self) -> None:
        super().__init__()
        self.played: list[int] = []

    def begin(self) -> float | None:
        self.x = float(self.np_random.uniform(-1, 1))
        return self.x

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        self.played.append(action)
        self.x = (self.x + 0.4 * action + 1.31) % 2 - 1
        return self.x, float(self.steps), self.steps == LENGTH, False

    def reset(self, **arguments: Any) -> tuple[Seen, dict[str, Any]]:
        return super().reset(**arguments)[0], {"lives": 3}

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], {"lives": 3 - self.steps // 4})

    def render(self) -> Any:
        return np.full((32, 32, 3), 10 * self.steps, np.uint8)


class TwoActions(Lives):
    actions = 2


@pytest.fixture
def agent() -> KeyQN:
    return KeyQN(env=Lives(), buffer_size=100, seed=0)


def decode(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    return frames


def expected(agent: KeyQN, seed: int, games: int, life_loss: bool) -> list[np.ndarray]:
    """Q-values of greedy play, of an agent that is told of lost lives or is not."""
    env = Lives()
    seen, _ = env.reset(seed=seed)
    values = []
    for _ in range(games):
        state: Any = None
        first, over, lives = True, False, 3
        while not over:
            batch = {name: part[None] for name, part in seen.items()}
            now, state = agent.policy.q_values(batch, state, np.array([first]))
            values.append(now[0].numpy())
            seen, _, over, _, info = env.step(now.argmax())  # type: ignore[arg-type]
            first, lives = life_loss and info["lives"] < lives, info["lives"]
        seen, _ = env.reset()
    return values


def test_it_plays_greedily_and_a_lost_life_begins_anew(agent: KeyQN) -> None:
    player = Lives()
    moments = list(_play(agent, player, 2, 1000, 0.0, 5, 16))
    decisions = [moment for moment in moments if not moment.over]
    values = np.array([moment.values for moment in decisions])
    np.testing.assert_allclose(values, expected(agent, 5, 2, life_loss=True), atol=1e-6)
    forgetful = np.abs(values - expected(agent, 5, 2, life_loss=False)).max(axis=1) > 1e-6
    # The game is over with the last life, which is the end in any case.
    assert forgetful.tolist() == 2 * (4 * [False] + 8 * [True])
    assert [moment.chosen for moment in decisions] == values.argmax(axis=1).tolist() == player.played
    assert [moment.score for moment in moments[: LENGTH + 2]] == [*np.cumsum(range(LENGTH + 1)), 0]
    # Trails start anew with a game, not with a life.
    assert [len(moment.trail) for moment in moments] == 2 * list(range(LENGTH + 1))


def test_whole_games_are_filmed(agent: KeyQN, tmp_path: Path) -> None:
    report = play(agent, Lives(), out=tmp_path / "play.mp4", games=2, epsilon=0, seed=5)
    assert report.scores == (LENGTH * (LENGTH + 1) / 2,) * 2
    assert report.unfinished is None
    # One frame for each decision, and one for each end.
    assert (report.interactions, report.frames) == (2 * LENGTH, 2 * (LENGTH + 1))
    frames = decode(report.video)
    assert len(frames) == report.frames
    shades = [int(frame[10, 10, 0]) for frame in frames]
    assert np.abs(np.array(shades) - 10 * np.tile(np.arange(LENGTH + 1), 2)).max() <= 6
    assert sorted(os.listdir(tmp_path)) == ["play.mp4", "play.png"]


def test_a_cap_cuts_the_last_game_short(agent: KeyQN, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    out = tmp_path / "play.mp4"
    report = play(agent, Lives(), out=out, games=9, max_steps=LENGTH + 3, progress=lambda *now: told.append(now))
    assert (report.scores, report.unfinished, report.interactions) == ((78,), 1 + 2 + 3, LENGTH + 3)
    assert told[-2:] == [(LENGTH + 2, 3), (LENGTH + 3, 6)]
    assert len(told) == report.frames == LENGTH + 1 + 4


def test_random_actions_are_uniform_and_follow_the_seed(agent: KeyQN, tmp_path: Path) -> None:
    def actions(seed: int) -> list[int]:
        player = Lives()
        play(agent, player, out=tmp_path / "play.mp4", games=3, epsilon=1, seed=seed)
        return player.played

    first = actions(0)
    assert first == actions(0)
    assert first != actions(1)
    assert min(np.bincount(first, minlength=3)) > 5


def test_one_interrupt_ends_the_play_and_keeps_it_whole(agent: KeyQN, tmp_path: Path) -> None:
    def interrupt(interaction: int, score: float) -> None:
        if interaction == 5:
            os.kill(os.getpid(), signal.SIGINT)

    report = play(agent, Lives(), out=tmp_path / "play.mp4", games=10_000, progress=interrupt)
    assert (report.interactions, report.frames, report.scores, report.unfinished) == (5, 6, (), 15)
    assert len(decode(report.video)) == 6
    assert report.sheet.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": 0}, "games must be at least 1, not 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"trail": -1}, "trail must be at least 0, not -1"),
        ({"epsilon": 1.5}, "epsilon must be from 0 to 1, not 1.5"),
        ({"seed": -1}, "the seed must be from 0 to 2147483647, not -1"),
        ({"fps": 0}, "fps must be above 0, not 0"),
        ({"out": "play.gif"}, "cannot write play.gif: its name must end in .mp4"),
        (
            {"player": TwoActions()},
            "the agent plays with 1 keypoints of 0 features and 3 actions; the environment has 1, 0 and 2",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_played(
    agent: KeyQN, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    player = Lives()
    arguments: dict[str, Any] = {"agent": agent, "player": player, "out": tmp_path / "play.mp4"}
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        play(**arguments | changes)
    assert "\n" not in str(caught.value)
    assert player.played == []
    assert os.listdir(tmp_path) == []


def test_a_game_of_atari_on_its_true_positions(tmp_path: Path) -> None:
    player = make_player("ALE/Pong-v5", OBJECTS)
    report = play(KeyQN(env=player, buffer_size=100), player, out=tmp_path / "pong.mp4", max_steps=2)
    assert (report.frames, report.scores, report.unfinished) == (3, (), 0)
    assert decode(report.video)[0].shape == (662, 480 + 378, 3)
