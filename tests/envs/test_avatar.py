from __future__ import annotations

import re
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from kpagent.envs.atari import make_atari_vector
from kpagent.envs.avatar import AvatarInfo, make_avatar_players
from kpagent.envs.making import make_env
from kpagent.envs.objects import locate_objects
from kpagent.errors import UsageError


@pytest.mark.parametrize("game", ["MontezumaRevenge", "MsPacman", "Seaquest"])
def test_games_are_those_that_the_threads_of_atari_play(game: str) -> None:
    threads = make_atari_vector(
        f"ALE/{game}-v5", 2, img_height=84, img_width=84, noop_max=0, autoreset_mode=AutoresetMode.SAME_STEP
    )
    players = make_avatar_players(f"ALE/{game}-v5", 2, 84, seed=0)
    threads.reset(seed=0)
    players.reset()
    assert players.action_space == threads.single_action_space
    generator = np.random.default_rng(0)
    for _ in range(30):
        actions = generator.integers(threads.single_action_space.n, size=2)  # type: ignore[attr-defined]
        theirs, their_rewards, *_ = threads.step(actions)
        ours, rewards, _, infos = players.step(actions)
        np.testing.assert_array_equal(ours, theirs[:, 0])
        np.testing.assert_array_equal(rewards, their_rewards)
        assert all(info["avatar"].shape == (2,) for info in infos)
    threads.close()
    players.close()


def test_the_place_is_that_of_the_frame_acted_on_to_the_end_of_the_game() -> None:
    players, env = make_avatar_players("ALE/MontezumaRevenge-v5", 1, 36, seed=0), make_env("ALE/MontezumaRevenge-v5")
    players.reset()
    env.reset(seed=0)
    generator, over, rooms = np.random.default_rng(1), False, set()
    while not over:
        action = int(generator.integers(18))
        expected: Any = locate_objects(env)["player"]
        _, reward, over, _, _ = env.step(action)
        _, rewards, _, infos = players.step(np.array([action]))
        np.testing.assert_array_equal(infos[0]["avatar"], expected)
        assert rewards[0] == reward
        assert ("episode" in infos[0]) == over
        rooms.add(infos[0]["room"])
    # Where every game begins.
    assert rooms == {1}
    # The next game's first frame has its own place.
    env.reset()
    expected = locate_objects(env)["player"]
    _, _, _, infos = players.step(np.array([0]))
    np.testing.assert_array_equal(infos[0]["avatar"], expected)
    players.close()
    env.close()


def test_a_game_without_rooms_is_one_room() -> None:
    env = AvatarInfo(make_env("ALE/Seaquest-v5"))
    assert "room" not in env.reset(seed=0)[1]
    assert env.step(0)[-1]["room"] == 0
    again = gym.make(env.spec) if env.spec is not None else env
    assert "AvatarInfo" in str(again)
    env.close()
    again.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(make_avatar_players, "ALE/Breakout-v5", 1, 84, seed=0), "ALE/Breakout-v5 has no player, only paddle, ball"),
        (partial(make_avatar_players, "CartPole-v1", 1, 84, seed=0), "no ground truth for CartPole-v1"),
        (partial(make_avatar_players, "ALE/Seaquest-v5", 0, 84, seed=0), "at least 1, not 0"),
        (partial(make_avatar_players, "ALE/Seaquest-v5", 2, 84, seed=-1), "the seed must be from 0"),
    ],
)
def test_a_mistake_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make()
