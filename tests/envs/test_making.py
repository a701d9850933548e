"""Environments by id: the settings that every part relies on, and one clear line where an id is wrong."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from kpagent.envs.atari import make_atari_vector
from kpagent.envs.making import copies, make_env, make_vector_env
from kpagent.errors import UsageError


def test_atari_is_played_without_chance_four_frames_an_action() -> None:
    env: Any = make_env("ALE/Pong-v5")
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    before = env.reset(seed=0)[1]["frame_number"]
    assert env.step(0)[4]["frame_number"] - before == 4
    env = make_env("ALE/Pong-v5", frameskip=2, repeat_action_probability=0.5)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.5
    before = env.reset(seed=0)[1]["frame_number"]
    assert env.step(0)[4]["frame_number"] - before == 2


def test_the_vector_env_of_atari_plays_the_same_game_as_the_single_one() -> None:
    single, vector = make_env("ALE/Breakout-v5"), make_atari_vector("ALE/Breakout-v5", 2, noop_max=0)
    frame, frames = single.reset(seed=0)[0], vector.reset(seed=0)[0]
    assert isinstance(vector, ale_py.AtariVectorEnv)
    assert frames.shape == (2, 1, 210, 160, 3)
    for action in [1, 2, 2, 3, 0, 3, 3, 2] * 12:
        np.testing.assert_array_equal(frames[:, 0], np.stack([frame, frame]))
        frame, reward, *_ = single.step(action)
        frames, rewards, *_ = vector.step(np.full(2, action))
        assert (rewards == reward).all()


def test_games_of_two_words_are_found() -> None:
    assert make_atari_vector("ALE/MsPacman-v5", 1).reset(seed=0)[0].shape == (1, 1, 210, 160, 3)


def test_an_env_without_images_is_made_to_render() -> None:
    env: Any = make_env("ALE/Pong-v5", obs_type="ram")
    assert env.render_mode == "rgb_array"
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)
    assert make_env("ALE/Pong-v5").render_mode is None
    assert make_env("ALE/Pong-v5", obs_type="ram", render_mode=None).render_mode is None


def test_vector_envs_of_any_id() -> None:
    # Each copy goes the way of make_env, so it renders where the observation is no image.
    options: dict[str, Any] = {"obs_type": "ram", "autoreset_mode": AutoresetMode.DISABLED}
    for processes, kind in ((False, SyncVectorEnv), (True, AsyncVectorEnv)):
        env = make_vector_env("PongNoFrameskip-v4", 2, processes=processes, **options)
        assert type(env) is kind
        assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
        env.reset(seed=0)
        frames: Any = env.render()
        assert [frame.shape for frame in frames] == [(210, 160, 3)] * 2
        env.close()
    assert isinstance(make_vector_env("ALE/Pong-v5", 2), ale_py.AtariVectorEnv)


@pytest.mark.parametrize(
    ("env_id", "close"),
    [
        ("ALE/Pongg-v5", "ALE/Pong-v5"),
        ("ale/pong-v5", "ALE/Pong-v5"),
        ("Pong-v5", "ALE/Pong-v5"),
        ("ALE/Pong-v6", "ALE/Pong-v5"),
        ("CartPole", "CartPole-v1"),
        ("%%%", "gymnasium.registry"),
        ("no_such_module:Env-v0", "No module named 'no_such_module'"),
    ],
)
@pytest.mark.parametrize("vector", [False, True])
def test_an_unknown_id_is_answered_with_those_close_to_it(env_id: str, close: str, vector: bool) -> None:
    with pytest.raises(UsageError, match=close) as caught:
        make_vector_env(env_id, 2) if vector else make_env(env_id)
    assert "\n" not in str(caught.value)


def test_what_is_not_installed_is_named() -> None:
    if importlib.util.find_spec("pygame"):
        pytest.skip("pygame is installed, so CartPole renders")
    env = make_env("CartPole-v1")
    env.reset(seed=0)
    with pytest.raises(gym.error.DependencyNotInstalled):
        env.render()


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_copy(count: int) -> None:
    for env_id in ("ALE/Pong-v5", "CartPole-v1"):
        with pytest.raises(UsageError, match="at least 1"):
            make_vector_env(env_id, count)


def test_only_atari_comes_as_an_atari_vector() -> None:
    for env_id in ("CartPole-v1", "ALE/Nothing-v5", "PongNoFrameskip-v4"):
        with pytest.raises(UsageError, match="no Atari game"):
            make_atari_vector(env_id, 2)


def test_control_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dm_control" else find(name))
    with pytest.raises(UsageError, match=r"needs dm_control: pip install 'kpagent\[control\]'"):
        make_env("dm_control/cartpole-swingup-v0")


def test_control_is_rendered_and_its_ids_are_checked() -> None:
    pytest.importorskip("dm_control")
    code = (
        "import warnings; warnings.simplefilter('ignore');"
        "from kpagent.envs.making import make_env;"
        "from kpagent.errors import UsageError;"
        "env = make_env('dm_control/cartpole-swingup-v0'); env.reset(seed=0);"
        "assert env.render().shape[2] == 3, env.render_mode; env.close()\n"
        "try: make_env('dm_control/cartpole-swingu-v0')\n"
        "except UsageError as error: assert 'cartpole-swingup' in str(error), error\n"
        "else: raise AssertionError('no error')"
    )
    # In a process of its own: rendering keeps a context of the graphics driver until the end.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_making_an_atari_env_prints_nothing_and_importing_brings_in_no_emulator() -> None:
    code = (
        "import sys, kpagent.envs, kpagent.envs.making, kpagent.envs.atari, kpagent.envs.objects_observation;"
        "heavy = {'ale_py', 'stable_baselines3', 'dm_control', 'shimmy', 'ray', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "kpagent.envs.making.make_env('ALE/Pong-v5').reset(seed=0);"
        "kpagent.envs.making.make_vector_env('ALE/Pong-v5', 1).reset(seed=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_atari_steps_many_copies_in_one_process() -> None:
    assert copies("ALE/Pong-v5") == 16
    assert copies("kpagent/Stacker4-v0") == copies("CartPole-v1") == 1
