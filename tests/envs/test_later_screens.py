"""Later screens: what the player left, seen in the pixels of the first frame."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from kpagent.envs.later_screens import HALF_WALL_ID, SCREENS, SECOND_ROOM_ID, LaterScreens, reach
from kpagent.envs.making import make_env, make_vector_env
from kpagent.envs.objects import locate_objects
from kpagent.errors import UsageError

WALL = np.s_[57:93, 8:152]
RED = (200, 72, 72)


def wall_left(frame: np.ndarray) -> float:
    """Share of the wall's pixels that are not black."""
    return float(frame[WALL].any(-1).mean())


@pytest.mark.parametrize("env_id", [HALF_WALL_ID, SECOND_ROOM_ID])
def test_gymnasium_finds_nothing_wrong_and_the_spec_makes_it_again(env_id: str) -> None:
    env: Any = make_env(env_id, states=2)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    with warnings.catch_warnings():
        # It warns of any wrapper.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    again: Any = gym.make(env.spec)
    for seed in range(2):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], again.reset(seed=seed)[0])
        for action in (1, 2, 3, 0, 1):
            one, two = env.step(action), again.step(action)
            np.testing.assert_array_equal(one[0], two[0])
            assert one[1:] == two[1:]
    assert one[0].shape == (210, 160, 3)
    assert one[4]["frame_number"] - env.step(0)[4]["frame_number"] == -4


def test_half_of_the_wall_is_gone_in_four_ways() -> None:
    env: Any = make_env(HALF_WALL_ID)
    assert wall_left(make_env("ALE/Breakout-v5").reset(seed=0)[0]) == 1
    walls = set()
    for episode in range(20):
        frame, info = env.reset(seed=None if episode else 0)
        assert 0.4 < wall_left(frame) <= 0.51
        assert info["lives"] >= 2
        walls.add(frame[WALL].any(-1).tobytes())
    assert len(walls) == 4
    others = make_env(HALF_WALL_ID, states=1, first_state=4).reset(seed=0)[0]
    assert others[WALL].any(-1).tobytes() not in walls


def test_random_play_goes_on_from_there() -> None:
    env: Any = make_env(HALF_WALL_ID)
    rng = np.random.default_rng(0)
    frame, _ = env.reset(seed=0)
    rewards, seen, steps, ended = 0.0, 0, 0, False
    while not ended:
        frame, reward, terminated, truncated, _ = env.step(int(rng.integers(4)))
        ended = terminated or truncated
        rewards, steps = rewards + reward, steps + 1
        objects = locate_objects(env)
        left, row = (objects["paddle"] + 1) / 2 * (160, 210)
        mask = (frame[189:193, 8:152] == RED).all(-1)
        columns = np.flatnonzero(mask.all(0)) + 8
        low_ball = np.isfinite(objects["ball"][1]) and objects["ball"][1] > 0.75
        if len(columns) and not low_ball and not ended:
            assert abs((columns.min() + columns.max() + 1) / 2 - left) <= 4
            assert abs(row - 191) <= 1
            seen += 1
        assert wall_left(frame) <= 0.52
    assert seen > 40
    assert 0 <= rewards < 100
    frame, _ = env.reset()
    assert 0.4 < wall_left(frame) <= 0.51


def test_the_second_room_is_another_room() -> None:
    env: Any = make_env(SECOND_ROOM_ID)
    first: Any = make_env("ALE/MontezumaRevenge-v5")
    outside, before = first.reset(seed=0)
    frames = set()
    for episode in range(10):
        frame, info = env.reset(seed=None if episode else 0)
        assert env.unwrapped.ale.getRAM()[3] == 0
        assert info["lives"] == before["lives"]
        # Below the score nearly all is new, the colours too.
        assert (frame[48:] != outside[48:]).any(-1).mean() > 0.2
        frames.add(frame.tobytes())
    assert len(frames) > 1


def test_states_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from kpagent.envs.making import make_env;"
        "first = lambda env_id: make_env(env_id).reset(seed=1)[0].tobytes();"
        f"print(*(hashlib.sha256(first(env_id)).hexdigest() for env_id in {(HALF_WALL_ID, SECOND_ROOM_ID)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    here = [hashlib.sha256(make_env(i).reset(seed=1)[0].tobytes()).hexdigest() for i in (HALF_WALL_ID, SECOND_ROOM_ID)]
    assert (done.stdout.split(), done.stderr) == (here, "")


def test_many_copies() -> None:
    env = make_vector_env(HALF_WALL_ID, 2)
    assert type(env) is SyncVectorEnv
    frames, _ = env.reset(seed=0)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, make_env(HALF_WALL_ID).reset(seed=index)[0])
    env.close()


def test_a_state_is_reached_once() -> None:
    assert reach("breakout half wall", 0) is reach("breakout half wall", 0)


def test_mistakes_get_one_line() -> None:
    for settings, message in (
        ({"states": 0}, "at least one state"),
        ({"first_state": -1}, "from number 0 or more"),
        ({"screen": "attic"}, "no later screen called 'attic'; there are 'breakout half wall'"),
        ({"render_mode": "human"}, "'rgb_array' only"),
    ):
        with pytest.raises(UsageError, match=message):
            make_env(HALF_WALL_ID, **settings)
    with pytest.raises(UsageError, match=r"one of ALE/Breakout-v5, not of ALE/Pong-v5"):
        LaterScreens(make_env("ALE/Pong-v5"), "breakout half wall")
    assert set(SCREENS) == {"breakout half wall", "montezuma second room"}


def test_objects_of_the_second_room_are_those_of_the_game() -> None:
    env, first = make_env(SECOND_ROOM_ID, states=1), make_env("ALE/MontezumaRevenge-v5")
    env.reset(seed=0), first.reset(seed=0)
    located = locate_objects(env)
    assert list(located) == list(locate_objects(first))
    # Just inside the right door of the new room.
    assert located["player"][0] > 0.8
