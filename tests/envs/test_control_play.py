"""Control tasks as frames, with repeated actions: against the same task without."""

from __future__ import annotations

import numpy as np
import pytest

from kpagent.envs.control_frames import make_frames_env
from kpagent.envs.control_play import RepeatedAction, default_repeat, make_control_env
from kpagent.errors import UsageError

CARTPOLE = "dm_control/cartpole-balance-v0"


def test_an_action_is_taken_several_times_and_seen_once() -> None:
    env, plain = make_control_env(CARTPOLE, repeat=3), make_frames_env(CARTPOLE)
    frame, _ = env.reset(seed=4)
    plain.reset(seed=4)
    np.testing.assert_array_equal(frame, plain.render())
    for force in (0.5, -1.0):
        action = np.array([force])
        frame, reward, terminated, truncated, _ = env.step(action)
        rewards = [float(plain.step(action)[1]) for _ in range(3)]
        assert reward == pytest.approx(sum(rewards))
        assert (terminated, truncated) == (False, False)
        np.testing.assert_array_equal(frame, plain.render())
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert env.observation_space.contains(frame)
    env.close()
    plain.close()


def test_an_episode_ends_in_the_middle_of_an_action() -> None:
    env = RepeatedAction(make_frames_env(CARTPOLE), 300)
    env.reset(seed=0)
    ended = [env.step(np.zeros(1))[3] for _ in range(4)]
    assert ended == [False, False, False, True]
    env.close()


def test_each_domain_has_its_repeat() -> None:
    names = ("cartpole-balance", "reacher-easy", "cheetah-run", "walker-stand", "hopper-stand")
    assert [default_repeat(f"dm_control/{name}-v0") for name in names] == [8, 4, 4, 2, 2]
    assert default_repeat("Pendulum-v1") == 1


@pytest.mark.parametrize(
    ("env_id", "repeat", "message"),
    [
        ("CartPole-v1", None, "CartPole-v1 has actions in a Discrete space, where a box of numbers is needed"),
        ("dm_control/cartpole-blance-v0", None, "did you mean dm_control/cartpole-balance-v0"),
        (CARTPOLE, 0, "at least once, not 0 times"),
    ],
)
def test_mistakes_are_said(env_id: str, repeat: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_control_env(env_id, repeat=repeat)
