from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from keypoint_games import KeypointGame, Seen

from kpagent.agents.intrinsic import DIRECTIONS
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_film import _play, film_options
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.drawing import keypoint_color
from kpagent.errors import UsageError

LENGTH, T, SIZE = 12, 3, 36
SMALL = OptionNetworkConfig(image_size=SIZE, filters=(4, 4, 4), embedding=16, hidden=8)


class Screen(KeypointGame):
    """Two keypoints that every action moves, and frames that grow lighter; a life is lost at the fifth step."""

    actions, keypoints = 3, 2
    render_mode = "rgb_array"

    def begin(self) -> float | None:
        self.x = 0.0
        return self.x

    def play(self, action: int) -> tuple[float | None, float, bool, bool]:
        self.x = 0.1 * (self.steps % 5)
        return self.x, 2.0, self.steps == LENGTH, False

    def reset(self, **arguments: Any) -> tuple[Seen, dict[str, Any]]:
        return super().reset(**arguments)[0], {"lives": 3}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], {"lives": 3 if self.steps < 5 else 2})

    def seen(self, x: float | None, y: float = 0.0) -> Seen:
        seen = super().seen(x, y)
        seen["xy"][1] += np.float32(0.5)
        return seen

    def render(self) -> Any:
        return np.full((SIZE, SIZE, 3), 15 * self.steps, np.uint8)


def an_agent(keypoints: int = 2, actions: int = 3) -> OptionAgent:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = OptionNetwork(keypoints, actions, SMALL)
        for parameter in network.parameters():
            parameter.data.mul_(4)
    return OptionAgent(network, T)


def frames_of(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    video.release()
    return count


def test_a_film_shows_every_interaction_of_one_game(tmp_path: Path) -> None:
    done: list[int] = []
    film = film_options(an_agent(), Screen(), out=tmp_path / "film.mp4", progress=done.append)
    assert (film.interactions, film.score, film.over) == (LENGTH, 2 * LENGTH, True)
    assert done == list(range(LENGTH + 1))
    assert frames_of(film.video) == LENGTH + 1
    assert set(os.listdir(tmp_path)) == {"film.mp4", "film.png"}
    short = film_options(an_agent(), Screen(), out=tmp_path / "film.mp4", max_steps=4)
    assert (short.interactions, short.score, short.over) == (4, 8, False)


def test_options_last_t_interactions_or_a_life_and_the_triangle_is_the_most_controllable_now() -> None:
    agent = an_agent()
    moments = list(_play(agent, Screen(), 100, 0, 4))
    state, begin, kept = None, 0, (-1, -1)
    for index, moment in enumerate(moments):
        first = index in (0, 5)
        values, state = agent.values(np.full((1, SIZE, SIZE, 3), 15 * index, np.uint8), np.array([first]), state)
        gap = np.ptp(values[0].numpy(), axis=-1).mean(axis=-1)
        assert moment.controllable == gap.argmax()
        if not moment.over and (first or index - begin == T):
            begin, kept = index, (gap.argmax(), moment.option[1])
        assert tuple(moment.option) == kept
        assert moment.note == f"interaction {index}, keypoint {kept[0]} {DIRECTIONS[kept[1]]}"
        # The middle of the marker is in the colour of its keypoint, and the triangle is the larger of the two.
        picture = moment.draw(8)
        areas = [int((picture == keypoint_color(keypoint)).all(axis=-1).sum()) for keypoint in range(2)]
        assert np.argmax(areas) == moment.controllable
    assert {moment.controllable for moment in moments} <= {0, 1}
    assert moments[-1].over


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"trail": -1}, "trail must be at least 0, not -1"),
        ({"out": "film.gif"}, "cannot write film.gif: its name must end in .mp4"),
        ({"agent": an_agent(3)}, "the options are of 3 keypoints and 3 actions; the environment has 2 and 3"),
        ({"agent": an_agent(2, 4)}, "the options are of 2 keypoints and 4 actions; the environment has 2 and 3"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"agent": an_agent(), "player": Screen(), "out": tmp_path / "film.mp4"}
    with pytest.raises(UsageError, match=re.escape(message)):
        film_options(**arguments | changes)
    assert os.listdir(tmp_path) == []
