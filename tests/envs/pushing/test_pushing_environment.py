from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kpagent.envs.making import make_env, make_vector_env
from kpagent.envs.pushing.environment import PUSHING_ID, STEPS, Pushing, register_pushing
from kpagent.envs.pushing.scene import Scene, draw_scene
from kpagent.envs.pushing.simulation import GOAL_COLOR, PUCK_COLOR
from kpagent.errors import UsageError

pytest.importorskip("mujoco")


@pytest.fixture
def env() -> Any:
    return make_env(PUSHING_ID)


def test_gymnasiums_checker_is_content() -> None:
    register_pushing()
    # It warns about what lies in the wrapper of the spec, which is not there for an env that is checked bare.
    check_env(gym.make(PUSHING_ID, render_mode="rgb_array").unwrapped)


def test_what_an_env_tells(env: Any) -> None:
    frame, info = env.reset(seed=3)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert env.render_mode is None
    scene = env.unwrapped.scene
    np.testing.assert_array_equal(info["puck"], scene.puck)
    np.testing.assert_array_equal(info["goal"], scene.goal)
    np.testing.assert_array_equal(info["hand"], (0, 0, 0))
    np.testing.assert_array_equal(info["wall"], (*scene.wall, scene.wall_angle))
    assert info["distance"] >= np.linalg.norm(info["puck"] - info["goal"])
    assert info["success"] is False
    for step in range(STEPS):
        frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == -info["distance"]
        assert terminated is False
        assert truncated == (step == STEPS - 1)


def test_success_is_a_distance_under_the_papers(env: Any) -> None:
    wall = (0.0, 0.4)
    for puck, success in (((0.5, -0.5), True), ((0.5, -0.209), True), ((0.5, -0.191), False)):
        _, info = env.reset(options={"scene": Scene(puck, (0.5, -0.5), wall, 0.0)})
        assert info["success"] is success
    # Behind the wall it is far, though it is near in a straight line.
    _, info = env.reset(options={"scene": Scene((0.0, 0.53), (0.0, 0.27), wall, 0.0)})
    assert info["distance"] == pytest.approx(2 * np.hypot(0.52, 0.13))
    assert not info["success"]


def test_tasks_come_from_the_seed(env: Any) -> None:
    frames: dict[int, np.ndarray] = {}
    for seed in (0, 1, 0):
        frame, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(frames.setdefault(seed, frame), frame)
    assert (frames[0] != frames[1]).any()
    assert (env.reset()[0] != frames[0]).any()
    with pytest.raises(UsageError, match=r"must be a Scene, not dict"):
        env.reset(options={"scene": {}})


def test_spec_and_pickle_round_trips(env: Any) -> None:
    made = make_env(PUSHING_ID, image_size=32, show_goal=False)
    assert made.spec is not None
    again = gym.make(made.spec)
    np.testing.assert_array_equal(made.reset(seed=5)[0], again.reset(seed=5)[0])
    assert again.observation_space.shape == (32, 32, 3)
    env.reset(seed=1)
    for _ in range(7):
        env.step(env.action_space.sample())
    other = pickle.loads(pickle.dumps(env))  # noqa: S301
    for _ in range(5):
        action = env.action_space.sample()
        np.testing.assert_array_equal(env.step(action)[0], other.step(action)[0])
    np.testing.assert_array_equal(env.unwrapped.get_state(), other.unwrapped.get_state())
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_states_are_set_for_a_planner(env: Any) -> None:
    env.reset(seed=2)
    state = env.unwrapped.get_state()
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3))
    first = [env.step(action) for action in actions]
    env.unwrapped.set_state(state)
    for action, (frame, reward, *_) in zip(actions, first, strict=True):
        again, same, *_ = env.step(action)
        np.testing.assert_array_equal(again, frame)
        assert same == reward


def test_a_goal_image_shows_the_puck_at_the_goal_and_changes_nothing(env: Any) -> None:
    frame, info = env.reset(seed=4)
    env.step(np.ones(3, np.float32))
    state = env.unwrapped.get_state()
    image = env.unwrapped.goal_image()
    np.testing.assert_array_equal(env.unwrapped.get_state(), state)
    np.testing.assert_array_equal(env.unwrapped.scene.puck, info["puck"])
    goal = (frame == GOAL_COLOR).all(axis=-1)
    assert (image == PUCK_COLOR).all(axis=-1)[goal].mean() > 0.9
    assert (image == PUCK_COLOR).all(axis=-1).sum() < 45


def test_the_goal_need_not_be_seen() -> None:
    scene = draw_scene(np.random.default_rng(0))
    frame, _ = Pushing(show_goal=False).reset(options={"scene": scene})
    assert not (frame == GOAL_COLOR).all(axis=-1).any()


def test_copies_in_processes() -> None:
    # What has drawn here, in threads of its own, must not keep the copies waiting.
    single, _ = make_env(PUSHING_ID).reset(seed=1)
    vector = make_vector_env(PUSHING_ID, 2, processes=True)
    frames, _ = vector.reset(seed=0)
    np.testing.assert_array_equal(frames[1], single)
    vector.close()


def test_arguments_that_cannot_be(env: Any) -> None:
    with pytest.raises(UsageError, match="renders as 'rgb_array' only"):
        Pushing(render_mode="human")
    for size in (8, 1000, 20.5):
        with pytest.raises(UsageError, match="image_size must be from 16 to 512"):
            Pushing(image_size=size)  # type: ignore[arg-type]
    env.reset(seed=0)
    for action in (np.zeros(2), np.full(3, np.nan)):
        with pytest.raises(ValueError, match="three numbers"):
            env.unwrapped.step(action)


QUIET = """
import sys
from kpagent.envs.making import make_env
import kpagent.envs.pushing.demonstrations
assert "mujoco" not in sys.modules
env = make_env("kpagent/Pushing-v0")
env.reset(seed=0)
env.unwrapped.simulation.render(32)
"""


def test_nothing_is_imported_early_and_nothing_is_said_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
