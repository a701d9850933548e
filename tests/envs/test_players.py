"""What agents play in: the protocol of Atari, true positions, any other environment, and learners of Stable-Baselines3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from kpagent.envs import KeypointVectorObservation, players
from kpagent.envs.atari import make_atari_vector
from kpagent.envs.objects import locate_objects
from kpagent.envs.players import OBJECTS, make_players, newest_frames
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError
from kpagent.frames import resize
from kpagent.keypoints import Keypoints
from kpagent.perception.transporter import Transporter, TransporterConfig


def serving(length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((length, 2)) < 0.2, 1, rng.integers(4, size=(length, 2)))


def untrained(env_id: str | None = None) -> Transporter:
    torch.manual_seed(0)
    return Transporter(TransporterConfig.fast(2), {"env": env_id} if env_id else {}).eval()


class ColumnReader:
    """Sees where the white column of a frame stands."""

    num_keypoints = 1
    feature_dim = 0

    def encode(self, frames: np.ndarray, *, features: bool = True) -> Keypoints:
        x = 2 * frames[:, 0, :, 0].argmax(axis=1) / frames.shape[2] - 1
        return Keypoints(np.stack([x, 0 * x], -1)[:, None], np.ones((len(x), 1)), np.zeros((len(x), 1, 0)))


class Walk(gym.Env):
    """Renders a column one place further to the right at each step, and ends after `length`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 5, render_mode: str | None = None) -> None:
        self.length, self.render_mode, self.count = length, render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.zeros(1, np.float32), 1.0, self.count == self.length, False, {}

    def render(self) -> np.ndarray:
        frame = np.zeros((16, 32, 3), np.uint8)
        frame[:, self.count] = 255
        return frame


gym.register("test_players/Walk-v0", entry_point=lambda **settings: Walk(**settings))


def play(env: GymnasiumVecEnv, actions: np.ndarray) -> list[Any]:
    said: list[Any] = [env.reset(), *(env.step(action) for action in actions)]
    for step in said[1:]:
        for info in step[3]:
            info.get("episode", {}).pop("t", None)
    return said


@pytest.mark.parametrize("see", ["breakout", OBJECTS])
def test_a_seed_determines_everything(see: str) -> None:
    actions = serving(220)
    first, same, other = (play(make_players("ALE/Breakout-v5", 2, see, seed=seed), actions) for seed in (3, 3, 8))
    np.testing.assert_equal(first, same)
    # Beyond the first end of a game.
    assert any("episode" in info for step in first[1:] for info in step[3])
    assert any(not np.array_equal(step[0]["xy"], also[0]["xy"]) for step, also in zip(first[1:], other[1:], strict=True))


def test_frames_shrunk_by_the_emulators_threads_are_those_that_the_model_shrinks() -> None:
    model = untrained()
    full = GymnasiumVecEnv(
        KeypointVectorObservation(make_atari_vector("ALE/Breakout-v5", 2, autoreset_mode=AutoresetMode.SAME_STEP), model),
        life_loss=True,
    )
    env = make_players("ALE/Breakout-v5", 2, model, seed=0)
    full.seed(0)
    np.testing.assert_equal(env.reset(), full.reset())
    for action in serving(210):
        step, expected = env.step(action), full.step(action)
        for info in (*step[3], *expected[3]):
            info.pop("episode", None)
        np.testing.assert_equal(step, expected)
        np.testing.assert_array_equal(newest_frames(env), resize(newest_frames(full), 84))
        assert np.shares_memory(newest_frames(env), newest_frames(env))


@pytest.mark.parametrize("see", ["pong", OBJECTS])
def test_games_begin_after_up_to_thirty_idle_frames(see: str) -> None:
    env = make_players("ALE/Pong-v5", 8, see, seed=0)
    begins = set()
    for _ in range(3):
        env.reset()
        begins |= {info["episode_frame_number"] for info in env.reset_infos}
    assert begins <= set(range(30))
    assert len(begins) > 8
    env.step(np.zeros(8, int))
    assert env.action_space == gym.spaces.Discrete(6)


@pytest.mark.parametrize("see", ["pong", OBJECTS])
def test_long_games_are_cut_off(see: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert players.LONGEST_GAME == 108_000
    monkeypatch.setattr(players, "LONGEST_GAME", 80)
    env = make_players("ALE/Pong-v5", 1, see, seed=0)
    env.reset()
    for _ in range(20):
        _, _, dones, (info,) = env.step(np.zeros(1, int))
        if dones[0]:
            break
    assert info["TimeLimit.truncated"]
    assert 12 <= info["episode"]["l"] <= 20


def test_true_positions_are_those_of_the_game() -> None:
    env = make_players("ALE/Breakout-v5", 2, OBJECTS, seed=0)
    observation: Any = env.reset()
    lives = 0
    for action in serving(120):
        for index, game in enumerate(env.env.envs):  # type: ignore[attr-defined]
            located = np.array(list(locate_objects(game).values()))
            np.testing.assert_allclose(observation["xy"][index], np.nan_to_num(located), atol=1e-7)
            np.testing.assert_array_equal(observation["presence"][index], ~np.isnan(located[:, 0]))
        observation, _, dones, infos = env.step(action)
        lives += sum(bool(done) and "episode" not in info for done, info in zip(dones, infos, strict=True))
    assert lives >= 2
    assert newest_frames(env).shape == (2, 210, 160, 3)


def test_an_env_that_is_rendered_shows_the_last_frame_of_an_episode() -> None:
    env = make_players("test_players/Walk-v0", 2, ColumnReader())
    place = lambda observation: np.round((observation["xy"][..., 0, 0] + 1) * 16)  # noqa: E731
    assert (place(env.reset()) == 0).all()
    for step in range(1, 12):
        observation, _, dones, infos = env.step(np.zeros(2, int))
        assert (place(observation) == step % 5).all()
        assert dones.all() == (step % 5 == 0)
        assert newest_frames(env)[:, 0, step % 5, 0].tolist() == [255, 255]
        for info in infos:
            assert not dones.any() or (place(info["terminal_observation"]) == 5 and info["episode"]["r"] == 5)


def test_variants_are_played_with_the_weights_and_the_truth_of_their_game() -> None:
    for see in ("pong", OBJECTS):
        env = make_players("kpagent/PongSliding-v0", 1, see, seed=0)
        observation: Any = env.reset()
        assert observation["xy"].shape[0] == 1
        assert env.step(np.zeros(1, int))[1].shape == (1,)
    make_players("ALE/Pong-v5", 1, untrained("kpagent/PongSliding-v0"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ALE/Pongg-v5", 1, "pong"), "ALE/Pong-v5"),
        (("ALE/Pong-v5", 0, "pong"), "at least 1"),
        (("ALE/Pong-v5", 1, "pongg"), "did you mean pong"),
        (("ALE/Pong-v5", 1, Path("/no/such.safetensors")), "no weights file"),
        (("ALE/Pong-v5", 1, 3), "not int"),
        (("ALE/Pong-v5", 1, "breakout"), "'breakout' are for ALE/Breakout-v5, not for ALE/Pong-v5: take 'pong'"),
        (("ALE/Tennis-v5", 1, "pong"), "pretrain some for it, or pass any_weights=True"),
        (("CartPole-v1", 1, OBJECTS), "no ground truth for CartPole-v1"),
        (("Pendulum-v1", 1, OBJECTS), "no ground truth for Pendulum-v1"),
    ],
)
def test_a_mistake_gets_one_line(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_players(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_have_a_range(seed: int) -> None:
    with pytest.raises(UsageError, match="the seed must be from 0 to"):
        make_players("ALE/Pong-v5", 1, OBJECTS, seed=seed)


def test_actions_must_be_discrete() -> None:
    pytest.importorskip("dm_control")
    with pytest.raises(UsageError, match="KeyQN needs a Discrete action space, and that of kpagent/Stacker4-v0 is a Box"):
        make_players("kpagent/Stacker4-v0", 1, OBJECTS)


def test_what_cannot_render_says_so() -> None:
    try:
        import pygame  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="CartPole-v1 cannot render"):
            make_players("CartPole-v1", 1, untrained())
    else:
        env = make_players("CartPole-v1", 1, untrained(), seed=0)
        env.reset()
        assert env.step(np.zeros(1, int))[1] == 1


def test_weights_of_another_game_may_be_allowed() -> None:
    env = make_players("ALE/Pong-v5", 1, "breakout", any_weights=True)
    assert env.reset()["xy"].shape == (1, 2, 2)  # type: ignore[call-overload]


def test_there_are_no_frames_before_the_first_reset() -> None:
    for env_id, see in (("ALE/Pong-v5", "pong"), ("kpagent/PongSliding-v0", "pong")):
        env = make_players(env_id, 1, see)
        if env_id.startswith("ALE/"):
            with pytest.raises(UsageError, match="before the first reset"):
                newest_frames(env)
        env.reset()
        assert newest_frames(env).dtype == np.uint8


def test_learners_of_stable_baselines3_train_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # An agent that never serves would play on for ever.
    monkeypatch.setattr(players, "LONGEST_GAME", 1600)
    env = make_players("ALE/Breakout-v5", 2, "breakout", seed=0)
    ppo = PPO("MultiInputPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(128)
    assert ppo.num_timesteps == 128
    objects = make_players("ALE/Breakout-v5", 2, OBJECTS, seed=0)
    settings: dict[str, Any] = {"learning_starts": 50, "train_freq": 16, "buffer_size": 1000, "batch_size": 8}
    dqn = DQN("MultiInputPolicy", objects, seed=0, device="cpu", exploration_fraction=1.0, **settings).learn(600)
    buffer = dqn.replay_buffer
    assert buffer is not None
    assert dqn.ep_info_buffer is not None
    games = [info["l"] for info in dqn.ep_info_buffer]
    # Lives end trajectories; the statistics are those of games.
    assert buffer.dones.sum() > 3 * len(games)
    assert min(games, default=999) > 75
    _, lengths = evaluate_policy(
        dqn, make_players("ALE/Breakout-v5", 2, OBJECTS, seed=1), 2, deterministic=False, return_episode_rewards=True
    )
    assert all(75 < length <= 400 for length in lengths)  # type: ignore[union-attr]
    assert objects.env_is_wrapped(Monitor) == [True, True]
