import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from kpagent.benchmarks.peers import ClippedRewards, EpsilonGreedy, train_peer
from kpagent.benchmarks.runs import Run, run_all
from kpagent.errors import UsageError

PONG = "ALE/Pong-v5"


def quick(method: str, *, seed: int = 0, **arguments: Any) -> dict[str, Any]:
    return train_peer(method, arguments.pop("env_id", PONG), seed, **({"episodes": 1} | arguments))


@pytest.mark.parametrize(
    ("method", "arguments", "played"),
    [
        ("dqn_pixels", {"interactions": 152, "changes": {"learning_starts": 100, "buffer_size": 120}}, 152),
        ("ppo_pixels", {"interactions": 150, "changes": {"n_steps": 8, "batch_size": 32, "n_epochs": 1}}, 128),
        ("ppo_keypoints", {"interactions": 150, "weights": "pong", "changes": {"n_steps": 8, "batch_size": 32}}, 128),
        ("random", {}, 0),
    ],
)
def test_every_method_trains_and_is_evaluated_on_whole_games(method: str, arguments: Any, played: int) -> None:
    result = quick(method, **arguments)
    assert json.loads(json.dumps(result)) == result
    assert result["interactions"] == played
    (score,) = result["scores"]
    # A whole game of Pong by one who has learned nothing yet.
    assert -21 <= score <= -15
    assert min(result["wall_s"], result["cpu_s"]) >= (0 if method == "random" else 0.01)
    assert result["peak_memory_mb"] > 100


def test_scores_are_real_and_games_whole_where_rewards_are_clipped_and_lives_end_trajectories() -> None:
    # Seaquest's rewards are 20 and more, and a game has four lives.
    result = quick("random", env_id="ALE/Seaquest-v5", episodes=3)
    assert len(result["scores"]) == 3
    assert all(score % 20 == 0 for score in result["scores"])
    assert max(result["scores"]) >= 40


def test_training_games_are_noted_with_their_real_score() -> None:
    changes = {"learning_starts": 1_196, "buffer_size": 100}
    # With this seed, its game of evaluation is short.
    result = quick("dqn_pixels", seed=1, env_id="ALE/Seaquest-v5", interactions=1_200, changes=changes)
    assert 1 <= len(result["games"]) <= 12  # a game, not a life, takes some hundred interactions
    assert all(0 < at <= 1_200 and score % 20 == 0 for at, score in result["games"])
    assert max(score for _, score in result["games"]) >= 40


def test_one_seed_gives_one_result() -> None:
    first, again, other = (train_peer("random", "ALE/Breakout-v5", seed, episodes=2)["scores"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("dqn", {}, "no method 'dqn'; there are dqn_pixels, ppo_pixels, ppo_keypoints, random"),
        ("random", {"env_id": "CartPole-v1"}, "peers play Atari"),
        ("random", {"env_id": "ALE/Pongg-v5"}, "did you mean ALE/Pong-v5"),
        ("random", {"episodes": 0}, "at least 1 episode"),
        ("random", {"weights": "pong"}, "by no other method"),
        ("ppo_keypoints", {}, "weights are needed"),
        ("ppo_keypoints", {"weights": "breakout"}, "Breakout"),
        ("dqn_pixels", {"interactions": 1_600}, "learns after 1600 interactions"),
        ("ppo_pixels", {"interactions": 1_000}, "plays 1024 interactions between updates"),
    ],
)
def test_what_cannot_be_is_one_line(method: str, arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        quick(method, **arguments)
    assert "\n" not in str(raised.value)


def test_clipped_rewards_are_signs() -> None:
    class Payer(gym.Env[Any, Any]):
        observation_space, action_space = gym.spaces.Box(0, 1), gym.spaces.Discrete(3)

        def reset(self, **_: Any) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: int) -> Any:
            return np.zeros(1, np.float32), (-7.5, 0, 400)[action], False, False, {}

    env = ClippedRewards(DummyVecEnv([Payer] * 3))
    env.reset()
    assert env.step(np.array([0, 1, 2]))[1].tolist() == [-1, 0, 1]


def test_random_actions_come_in_each_game_by_itself_and_as_often_as_said() -> None:
    class Always5:
        def predict(self, observation: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
            assert deterministic
            return np.full(len(observation), 5), None

    player = EpsilonGreedy(Always5(), 0.25, 4, seed=0)  # type: ignore[arg-type]
    actions = np.stack([player.predict(np.zeros((8, 1)))[0] for _ in range(2_000)])
    explored = actions != 5
    assert explored.mean() == pytest.approx(0.25, abs=0.02)
    assert set(actions[explored]) == {0, 1, 2, 3}
    # One coin for all would make rows all alike.
    assert (explored.any(axis=1) & ~explored.all(axis=1)).mean() == pytest.approx(1 - 0.75**8, abs=0.03)


def test_a_peer_runs_in_a_process_of_its_own(tmp_path: Any) -> None:
    arguments = {"method": "random", "env_id": PONG, "seed": 0, "episodes": 1}
    (result,) = run_all([Run("kpagent.benchmarks.peers:train_peer", arguments, tmp_path / "random.json")])
    assert result["scores"] == quick("random")["scores"]
