"""True positions as observations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from kpagent.envs import KeypointObservation
from kpagent.envs.making import make_env
from kpagent.envs.objects import ATARI_OBJECTS, locate_objects
from kpagent.envs.objects_observation import ObjectObservation
from kpagent.errors import UsageError
from kpagent.perception.transporter import Transporter, TransporterConfig


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped:UserWarning", "ignore:.*unconventional shape:UserWarning")
@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "ALE/Breakout-v5", "kpagent/PongSliding-v0"])
def test_it_passes_the_checkers(env_id: str) -> None:
    env = ObjectObservation(make_env(env_id))
    check_env(env, skip_render_check=True)
    check_env_sb3(env, skip_render_check=True)


def test_objects_off_the_screen_are_absent_and_lie_at_zero() -> None:
    env, bare = ObjectObservation(make_env("ALE/Breakout-v5")), make_env("ALE/Breakout-v5")
    observation = env.reset(seed=0)[0]
    bare.reset(seed=0)
    assert env.objects == ("paddle", "ball")
    seen = []
    for action in [0, 1, 2, 3, 3, 2] * 15:
        for index, (x, y) in enumerate(locate_objects(bare).values()):
            assert observation["presence"][index] == (not np.isnan(x))
            expected = (0, 0) if np.isnan(x) else (x, y)
            np.testing.assert_allclose(observation["xy"][index], expected, atol=1e-7)
        seen.append(observation["presence"][1])
        assert observation in env.observation_space
        observation, reward, *_ = env.step(action)
        assert bare.step(action)[1] == reward
    assert set(seen) == {0, 1}


def test_the_space_is_that_of_keypoints_without_features() -> None:
    model = Transporter(TransporterConfig.fast(3))
    keypoints = KeypointObservation(make_env("ALE/Pong-v5"), model, features=False)
    assert ObjectObservation(make_env("ALE/Pong-v5")).observation_space == keypoints.observation_space


@pytest.mark.parametrize("env_id", ATARI_OBJECTS)
def test_every_game_with_ground_truth_can_be_seen_so(env_id: str) -> None:
    env = ObjectObservation(make_env(env_id, obs_type="ram", render_mode=None))
    env.reset(seed=0)
    for _ in range(30):
        assert env.step(env.action_space.sample())[0] in env.observation_space


def test_the_stacker_can_be_seen_so() -> None:
    pytest.importorskip("dm_control")
    env = ObjectObservation(make_env("kpagent/Stacker4-v0", render_mode=None))
    observation = env.reset(seed=0)[0]
    assert observation["xy"].shape == (8, 2)
    assert observation in env.observation_space
    expected = np.array(list(locate_objects(env).values()))
    np.testing.assert_allclose(observation["xy"], np.nan_to_num(expected), atol=1e-7)


def test_an_env_without_ground_truth_gets_one_line() -> None:
    with pytest.raises(UsageError, match="no ground truth for CartPole-v1"):
        ObjectObservation(gym.make("CartPole-v1"))


def test_it_is_made_again_from_its_spec() -> None:
    env = ObjectObservation(make_env("ALE/Pong-v5"))
    assert env.spec is not None
    again = gym.make(env.spec)
    np.testing.assert_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
