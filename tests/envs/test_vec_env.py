"""The adapter to Stable-Baselines3, beside that library's own on the same environments and the same actions."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from kpagent.envs import KeypointObservation, KeypointVectorObservation
from kpagent.envs.atari import make_atari_vector
from kpagent.envs.making import make_env
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError

NOOP = 0


def breakout_threads(count: int, **settings: Any) -> VectorEnv:
    return make_atari_vector("ALE/Breakout-v5", count, noop_max=0, autoreset_mode=AutoresetMode.SAME_STEP, **settings)


def breakout_turns(count: int) -> VectorEnv:
    return SyncVectorEnv([partial(make_env, "ALE/Breakout-v5")] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def short_cartpole() -> gym.Env:
    return gym.make("CartPole-v1", max_episode_steps=12)


def same_step(copy: bool = True) -> SyncVectorEnv:
    return SyncVectorEnv([short_cartpole] * 3, copy=copy, autoreset_mode=AutoresetMode.SAME_STEP)


def random_play(seed: int, length: int) -> np.ndarray:
    """Actions for Breakout that serve the ball often."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(length) < 0.2, 1, rng.integers(4, size=length))


def reference(actions: np.ndarray) -> list[dict[str, Any]]:
    """What Stable-Baselines3 makes of Breakout; the idle action that it plays after a lost life is a step of its own."""
    env: Any = DummyVecEnv([lambda: EpisodicLifeEnv(Monitor(make_env("ALE/Breakout-v5")))])
    env.reset()
    steps: list[dict[str, Any]] = []
    for action in actions:
        frame, reward, done, (info,) = env.step([action])
        step = {"action": action, "reward": reward[0], "done": done[0], "frame": frame[0], "episode": info.get("episode")}
        if not done[0]:
            steps.append(step)
            continue
        last = info["terminal_observation"]
        if "episode" in info:
            steps.append(step | {"last": last})
        else:
            steps.append(step | {"last": last, "frame": last})
            steps.append({"action": NOOP, "reward": None, "done": False, "frame": frame[0], "episode": None})
    return steps


@pytest.mark.parametrize("make", [breakout_threads, breakout_turns])
def test_lost_lives_end_trajectories_as_in_stable_baselines3_and_games_go_on(make: Any) -> None:
    scripts = [reference(random_play(seed, 420)) for seed in range(2)]
    env: Any = GymnasiumVecEnv(make(2), life_loss=True)
    squeeze = (lambda frame: frame[0]) if make is breakout_threads else (lambda frame: frame)
    env.reset()
    ends, games, returns = 0, 0, np.zeros(2)
    for steps in zip(*scripts, strict=False):
        frames, rewards, dones, infos = env.step(np.array([step["action"] for step in steps]))
        returns += rewards
        for index, (step, info) in enumerate(zip(steps, infos, strict=True)):
            assert dones[index] == step["done"]
            assert step["reward"] in (None, rewards[index])
            np.testing.assert_array_equal(squeeze(frames[index]), step["frame"])
            assert ("terminal_observation" in info) == step["done"]
            assert ("episode" in info) == (step["episode"] is not None)
            assert info["TimeLimit.truncated"] is False
            if not step["done"]:
                continue
            ends += 1
            # Threads show the frame before the action in which a game ended; how it looks counts for nothing.
            if make is breakout_turns or step["episode"] is None:
                np.testing.assert_array_equal(squeeze(info["terminal_observation"]), step["last"])
            else:
                assert (squeeze(info["terminal_observation"]) != step["last"]).mean() < 0.01
            if step["episode"] is not None:
                games += 1
                assert info["episode"]["r"] == step["episode"]["r"] == returns[index]
                assert info["episode"]["l"] == step["episode"]["l"]
                returns[index] = 0
    assert games >= 2
    assert ends >= 4 * games


def test_without_life_loss_only_games_end() -> None:
    env = GymnasiumVecEnv(breakout_threads(2))
    env.reset()
    ended = 0
    for action in random_play(0, 400):
        _, _, dones, infos = env.step(np.full(2, action))
        assert [("episode" in info) for info in infos] == list(dones)
        ended += dones.sum()
    assert ended >= 2


def test_the_last_observation_of_a_life_is_not_the_memory_of_the_next() -> None:
    env = GymnasiumVecEnv(breakout_threads(1), life_loss=True)
    env.reset()
    for action in random_play(0, 200):
        frames, _, dones, infos = env.step(np.array([action]))
        if dones[0]:
            assert not np.shares_memory(frames, infos[0]["terminal_observation"])
            return
    raise AssertionError("no life was lost")


@pytest.mark.parametrize("kind", ["turns", "same memory", "processes"])
def test_everything_else_is_as_dummy_vec_env_has_it(kind: str) -> None:
    theirs = DummyVecEnv([lambda: Monitor(short_cartpole())] * 3)
    if kind == "processes":
        ours = GymnasiumVecEnv(AsyncVectorEnv([short_cartpole] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    else:
        ours = GymnasiumVecEnv(same_step(copy=kind == "turns"))
    assert theirs.seed(7) == ours.seed(7)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    expected, observations = theirs.reset(), ours.reset()
    rng = np.random.default_rng(0)
    kept: list[tuple[Any, Any]] = []
    truncated = 0
    for _ in range(100):
        np.testing.assert_array_equal(observations, expected)
        kept.append((observations, expected))
        actions = rng.integers(2, size=3)
        expected, their_rewards, their_dones, their_infos = theirs.step(actions)
        observations, rewards, dones, infos = ours.step(actions)
        np.testing.assert_array_equal(rewards, their_rewards)
        assert rewards.dtype == their_rewards.dtype
        np.testing.assert_array_equal(dones, their_dones)
        for info, their_info in zip(infos, their_infos, strict=True):
            assert set(info) == set(their_info)
            assert info["TimeLimit.truncated"] == their_info["TimeLimit.truncated"]
            truncated += info["TimeLimit.truncated"]
            if "episode" in info:
                np.testing.assert_array_equal(info["terminal_observation"], their_info["terminal_observation"])
                assert [info["episode"][key] for key in "rl"] == [their_info["episode"][key] for key in "rl"]
                assert info["episode"]["t"] >= 0
    assert truncated > 3
    for observations, expected in kept:
        np.testing.assert_array_equal(observations, expected)
    ours.close()


def test_a_reset_begins_new_sums() -> None:
    env = GymnasiumVecEnv(same_step())
    env.reset()
    env.step(np.zeros(3, int))
    env.reset()
    lengths = [0, 0, 0]
    for _ in range(12):
        _, _, dones, infos = env.step(np.zeros(3, int))
        for index in range(3):
            lengths[index] += 1
            if dones[index]:
                assert infos[index]["episode"]["l"] == infos[index]["episode"]["r"] == lengths[index]
                lengths[index] = 0


@pytest.mark.parametrize("make", [breakout_threads, breakout_turns])
def test_some_games_begin_anew_and_the_others_go_on(make: Any) -> None:
    env, alone = GymnasiumVecEnv(make(2), life_loss=True), GymnasiumVecEnv(make(2), life_loss=True)
    for each in (env, alone):
        each.seed(0)
        each.reset()
    began = 0
    ends: list[dict[str, Any]] = []
    seen: Any
    expected: Any
    for number, action in enumerate(random_play(0, 500)):
        seen, _, dones, infos = env.step(np.array([action, action]))
        expected, _, expected_dones, expected_infos = alone.step(np.array([action, action]))
        # The second is left alone throughout.
        np.testing.assert_array_equal(seen[1], expected[1])
        assert dones[1] == expected_dones[1]
        lengths = [each[1].get("episode", {}).get("l") for each in (infos, expected_infos)]
        assert lengths[0] == lengths[1]
        if "episode" in infos[0]:
            ends.append(infos[0]["episode"] | {"expected": number + 1 - began})
            began = number + 1
        elif number in (30, 80):
            first: Any = env.begin_anew(np.array([True, False]))
            np.testing.assert_array_equal(first[1], seen[1])
            assert (first[0] != seen[0]).any()
            assert env.reset_infos[0]["lives"] == 5
            began = number + 1
    assert ends
    assert all(end["l"] == end["expected"] for end in ends)
    env.close()
    alone.close()


class Telling(gym.Env):
    """Says something else at each kind of step, in all the forms that Gymnasium batches."""

    observation_space = gym.spaces.Dict({"count": gym.spaces.Box(0, 99, (1,), np.float32)})
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length
        self.count = 0

    def observe(self) -> dict[str, np.ndarray]:
        return {"count": np.array([self.count], np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {"begun": True, "options": str(options)}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count == self.length
        told: dict[str, Any] = {
            "count": self.count,
            "where": {"x": self.count / 2, "name": str(self.count)},
            "pair": np.arange(2),
        }
        return self.observe(), 1.0, over, False, told | ({"is_success": True} if over else {})

    def square(self, number: int) -> int:
        return (number + self.length) ** 2


def telling() -> SyncVectorEnv:
    return SyncVectorEnv([partial(Telling, length) for length in (3, 5)], autoreset_mode=AutoresetMode.SAME_STEP)


def test_infos_are_those_of_each_env_and_of_the_step_that_ended_it() -> None:
    env: Any = GymnasiumVecEnv(telling())
    listed = DictInfoToList(telling())
    env.set_options({"a": 1})
    env.reset()
    listed.reset()
    assert env.reset_infos == [{"begun": True, "options": "{'a': 1}"}] * 2
    for number in range(1, 12):
        observations, _, dones, infos = env.step(np.zeros(2, int))
        theirs: Any = listed.step(np.zeros(2, int))[4]
        for index, (info, their_info) in enumerate(zip(infos, theirs, strict=True)):
            told = {name: value for name, value in info.items() if name not in ("terminal_observation", "episode")}
            assert told.pop("TimeLimit.truncated") is False
            expected = their_info["final_info"] if dones[index] else their_info
            np.testing.assert_equal(told, expected)
            assert ("is_success" in told) == dones[index] == (number % (3, 5)[index] == 0)
            if dones[index]:
                assert info["terminal_observation"] == {"count": (3, 5)[index]}
                assert observations["count"][index] == 0
                assert env.reset_infos[index] == {"begun": True, "options": "None"}


def test_attributes_and_methods_of_single_envs() -> None:
    env = GymnasiumVecEnv(telling())
    assert env.get_attr("length") == [3, 5]
    assert env.get_attr("length", 1) == [5]
    env.set_attr("length", 9, indices=[0])
    assert env.get_attr("length") == [9, 5]
    assert env.env_method("square", 1) == [100, 36]
    assert env.env_method("square", number=0, indices=1) == [25]
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(EpisodicLifeEnv) == [False, False]
    wrapped = GymnasiumVecEnv(SyncVectorEnv([lambda: EpisodicLifeEnv(make_env("ALE/Pong-v5"))], autoreset_mode="SameStep"))
    assert wrapped.env_is_wrapped(EpisodicLifeEnv, indices=0) == [True]
    threads = GymnasiumVecEnv(breakout_threads(2))
    assert threads.get_attr("render_mode") == [None, None]
    assert threads.env_is_wrapped(Monitor, [1]) == [True]
    assert threads.env_is_wrapped(EpisodicLifeEnv) == [False, False]
    assert threads.get_images() == [None, None]
    for ask in (lambda: threads.env_method("render"), lambda: threads.set_attr("length", 1)):
        with pytest.raises(UsageError, match="AtariVectorEnv cannot be reached one by one"):
            ask()


def test_pictures_are_tiled() -> None:
    makers = [partial(make_env, "ALE/Pong-v5", render_mode="rgb_array")] * 2
    env = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset()
    picture = env.render()
    assert env.render_mode == "rgb_array"
    assert picture is not None
    assert picture.shape == (420, 160, 3)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_another_autoreset_mode_gets_one_line(mode: AutoresetMode) -> None:
    with pytest.raises(UsageError, match=f"must have autoreset mode SAME_STEP, not {mode.name}"):
        GymnasiumVecEnv(SyncVectorEnv([short_cartpole], autoreset_mode=mode))


def test_the_mode_of_one_atari_env_is_not_that_of_the_last_that_was_made() -> None:
    right = breakout_threads(1)
    wrong = make_atari_vector("ALE/Breakout-v5", 1)
    GymnasiumVecEnv(right)
    breakout_threads(1)
    with pytest.raises(UsageError, match="NEXT_STEP"):
        GymnasiumVecEnv(wrong)


def test_options_are_the_same_for_all() -> None:
    env = GymnasiumVecEnv(same_step())
    env.set_options([{"low": -0.1}] * 3)
    observations: Any = env.reset()
    assert np.abs(observations).max() <= 0.1
    with pytest.raises(UsageError, match="one dict of options"):
        env.set_options([{"low": -0.1}, {}, {}])


def test_any_seed_that_is_drawn_is_one_that_atari_takes() -> None:
    env = GymnasiumVecEnv(breakout_threads(3))
    for _ in range(3):
        seeds = env.seed()
        assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
        env.reset()
    assert env.seed(4) == [4, 5, 6]


class Player:
    """Serves and moves about, by the number of the step: an agent that needs no observation."""

    def __init__(self) -> None:
        self.steps = 0

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        self.steps += 1
        count = len(episode_start)
        return np.array([random_play(self.steps + 1000 * index, 1)[0] for index in range(count)]), state


def test_evaluate_policy_counts_whole_games() -> None:
    model: Any = Player()
    returns, lengths = evaluate_policy(
        model, GymnasiumVecEnv(breakout_threads(2), life_loss=True), 5, return_episode_rewards=True
    )
    again: Any = Player()
    assert (returns, lengths) == evaluate_policy(again, GymnasiumVecEnv(breakout_threads(2)), 5, return_episode_rewards=True)
    assert len(returns) == 5  # type: ignore[arg-type]
    # Five lives of some 25 interactions each, or more.
    assert min(lengths) > 100  # type: ignore[arg-type]


def test_a_step_costs_little_besides_the_env() -> None:
    env = GymnasiumVecEnv(breakout_threads(8, img_height=84, img_width=84), life_loss=True)
    env.reset()
    env.step(np.zeros(8, int))
    answer = env.env.step(np.zeros(8, int))
    env.env.step = lambda actions: answer  # type: ignore[method-assign]
    costs = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(100):
            env.step(np.zeros(8, int))
        costs.append((time.process_time() - start) / 100)
    assert min(costs) < 100e-6


def test_keypoints_of_the_same_game_are_the_same_alone_and_in_threads() -> None:
    threads = GymnasiumVecEnv(KeypointVectorObservation(breakout_threads(2), "breakout", device="cpu"), life_loss=True)
    makers = [lambda: KeypointObservation(make_env("ALE/Breakout-v5"), "breakout", device="cpu")] * 2
    turns = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), life_loss=True)
    assert threads.observation_space == turns.observation_space
    seen: Any = threads.reset()
    also: Any = turns.reset()
    lives = 0
    for action in random_play(2, 120):
        for name in ("xy", "presence", "features"):
            np.testing.assert_allclose(seen[name], also[name], atol=1e-3)
        seen, _, dones, infos = threads.step(np.full(2, action))
        also, _, their_dones, their_infos = turns.step(np.full(2, action))
        np.testing.assert_array_equal(dones, their_dones)
        for index in np.flatnonzero(dones):
            lives += 1
            last, their_last = infos[index]["terminal_observation"], their_infos[index]["terminal_observation"]
            assert set(last) == {"xy", "presence", "features"}
            np.testing.assert_allclose(last["xy"], their_last["xy"], atol=1e-3)
            np.testing.assert_array_equal(last["xy"], seen["xy"][index])
    assert lives
