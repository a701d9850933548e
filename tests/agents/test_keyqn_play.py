"""What KeyQN collects and plays, and how it keeps to the habits of Stable-Baselines3."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keypoint_games import (
    FeatureWalk,
    KeypointGame,
    ManyActions,
    Sides,
    TwoKeypoints,
    Walk,
)
from scipy.stats import chisquare
from small_keyqn import SMALL, agent_of, copies, one_line, parameters, rows_of, values_along
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from kpagent.agents.keyqn import KeyQN
from kpagent.errors import UsageError

# What is collected.


def test_action_and_reward_are_kept_with_the_observation_that_they_belong_to() -> None:
    agent = agent_of(copies(Sides, 3), learning_starts=1_000, buffer_size=60).learn(120)
    for rows in rows_of(agent):
        acted = rows.acted[0]
        assert acted.sum() >= 19
        side = (rows.observation["xy"][0, :, 0, 0] > 0).astype(int)
        assert (rows.reward[0] == np.where(rows.action[0] == side, 1, -1))[acted].all()
        assert len(set(rows.action[0, acted])) == 2


def test_episodes_are_kept_as_they_were_played() -> None:
    agent = agent_of(copies(Walk, 3), gradient_steps=0).learn(300)
    envs = copies(Walk, 3)
    envs.seed(0)
    seen = envs.reset()
    assert isinstance(seen, dict)
    played = [iter(range(rows.acted.shape[1])) for rows in rows_of(agent)]
    kept = rows_of(agent)
    first = np.ones(3, bool)
    for _ in range(99):
        places = [next(each) for each in played]
        actions = np.array([rows.action[0, place] for rows, place in zip(kept, places, strict=True)])
        after, rewards, dones, infos = envs.step(actions)
        for env, (rows, place) in enumerate(zip(kept, places, strict=True)):
            assert rows.acted[0, place]
            assert rows.first[0, place] == first[env]
            np.testing.assert_array_equal(rows.observation["xy"][0, place], seen["xy"][env])
            assert rows.reward[0, place] == rewards[env]
            truncated = infos[env]["TimeLimit.truncated"]
            assert rows.terminated[0, place] == (dones[env] and not truncated)
            if truncated:
                last = next(played[env])
                assert not rows.acted[0, last]
                np.testing.assert_array_equal(rows.observation["xy"][0, last], infos[env]["terminal_observation"]["xy"])
        seen, first = after, dones
        assert isinstance(seen, dict)


def test_rewards_are_clipped_to_their_sign_where_asked() -> None:
    clipped, whole = (agent_of(Walk(), clip_rewards=clip, gradient_steps=0).learn(60) for clip in (True, False))
    for one, other in zip(rows_of(clipped), rows_of(whole), strict=True):
        np.testing.assert_array_equal(one.reward, np.sign(other.reward))
        assert len(np.unique(other.reward)) > 10


def test_predict_goes_through_the_states_that_training_went_through() -> None:
    # Half of the actions are random, and the state must move on under them too.
    half: dict[str, Any] = {
        "exploration_initial_eps": 0.5,
        "exploration_final_eps": 0.5,
        "learning_starts": 0,
        "gradient_steps": 0,
    }
    agent = agent_of(copies(FeatureWalk, 3), **half).learn(300)
    names = list(agent.q_net.state_shapes)
    for rows, states in zip(rows_of(agent), agent_states(agent), strict=True):
        state: tuple[np.ndarray, ...] | None = None
        for place in range(rows.acted.shape[1]):
            first = rows.first[0, place : place + 1]
            for name, kept in states.items():
                wanted = np.zeros_like(kept[place]) if first[0] or state is None else state[names.index(name)][0]
                np.testing.assert_allclose(kept[place], wanted, atol=1e-3)
            one = {name: part[0, place : place + 1] for name, part in rows.observation.items()}
            action, state = agent.predict(one, state=state, episode_start=first, deterministic=True)
            assert action.shape == (1,)
    assert any(np.abs(part).max() > 0.01 for part in agent_states(agent)[0].values())


def agent_states(agent: KeyQN) -> list[dict[str, np.ndarray]]:
    """The recurrent state kept with each row of each environment."""
    found = []
    for env, size in enumerate(agent.replay.sizes.tolist()):
        found.append(agent.replay.window(np.full(size, env), np.arange(size), 1, 0).state)
    return found


def test_each_environment_explores_on_a_coin_of_its_own() -> None:
    half: dict[str, Any] = {
        "exploration_initial_eps": 0.5,
        "exploration_final_eps": 0.5,
        "learning_starts": 0,
        "gradient_steps": 0,
    }
    agent = agent_of(copies(ManyActions, 2), **half)
    agent.policy.exploration_rate = 0.5
    agent.learn(2_000)
    greedy = []
    for rows in rows_of(agent):
        best = values_along(agent, *({name: part[0, 0] for name, part in rows.observation.items()} for _ in range(1000)))
        greedy.append(rows.action[0] == np.argmax(best, axis=1))
    check_coins(greedy[0], greedy[1])


def test_predict_tosses_a_coin_for_each_observation_unless_it_is_deterministic() -> None:
    agent = agent_of(copies(ManyActions, 2))
    agent.policy.exploration_rate = 0.5
    seen = {name: np.stack([part] * 2000) for name, part in ManyActions().seen(0.25).items()}
    actions, _ = agent.predict(seen)
    best, _ = agent.predict(seen, deterministic=True)
    assert len(set(best.tolist())) == 1
    check_coins((actions == best)[:1000], (actions == best)[1000:])


def check_coins(one: np.ndarray, other: np.ndarray) -> None:
    """Both are greedy with probability 1/2 + 1/32, independently."""
    share = 0.5 + 0.5 / 16
    wanted = np.array([share**2, share * (1 - share), (1 - share) * share, (1 - share) ** 2]) * len(one)
    counts = [(one & other).sum(), (one & ~other).sum(), (~one & other).sum(), (~one & ~other).sum()]
    assert chisquare(counts, wanted).pvalue > 0.001


def test_predict_begins_anew_only_where_an_episode_begins() -> None:
    agent = agent_of(copies(FeatureWalk))
    seen, later = ({name: np.stack([part] * 2) for name, part in FeatureWalk().seen(x).items()} for x in (0.3, -0.6))
    _, state = agent.predict(seen)
    _, fresh = agent.predict(later)
    _, after = agent.predict(later, state=state, episode_start=np.array([True, False]))
    assert state is not None
    assert fresh is not None
    assert after is not None
    for one, other in zip(after, fresh, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)
    assert any(np.abs(one[1] - other[1]).max() > 1e-4 for one, other in zip(after, fresh, strict=True))


def test_predict_takes_one_observation_or_a_batch() -> None:
    agent = agent_of(FeatureWalk())
    one = FeatureWalk().seen(0.3)
    action, state = agent.predict(one, deterministic=True)
    batch, batch_state = agent.predict({name: part[None] for name, part in one.items()}, deterministic=True)
    assert np.shape(action) == ()
    assert agent.action_space.contains(action)
    assert batch.tolist() == [action]
    assert state is not None
    assert batch_state is not None
    for part, other in zip(state, batch_state, strict=True):
        np.testing.assert_array_equal(part, other)


def test_the_state_of_predict_is_not_changed_by_what_becomes_of_the_observation() -> None:
    agent = agent_of(Walk())
    seen = {name: part[None] for name, part in Walk().seen(0.3).items()}
    _, state = agent.predict(seen)
    assert state is not None
    before = [part.copy() for part in state]
    seen["xy"][:] = -1
    for part, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(part, kept)


def test_observations_that_cannot_be_written_to_are_no_matter() -> None:
    agent = agent_of(Walk())
    seen = Walk().seen(0.3)
    for part in seen.values():
        part.flags.writeable = False
    agent.predict(seen)


def test_predict_refuses_what_is_no_observation_of_keypoints() -> None:
    agent = agent_of(Walk())
    for wrong in (np.zeros(3, np.float32), {"xy": np.zeros((1, 2), np.float32)}):
        with pytest.raises(UsageError) as error:
            agent.predict(wrong)
        assert one_line(error) == "KeyQN acts on observations of KeypointObservation, a Dict of presence, xy"


# The habits of Stable-Baselines3.


def test_one_seed_gives_one_agent(tmp_path: Path) -> None:
    one, again, other = (agent_of(copies(Walk), seed=seed).learn(120) for seed in (3, 3, 4))
    assert torch.equal(parameters(one), parameters(again))
    assert not torch.equal(parameters(one), parameters(other))


def test_evaluation_in_between_does_not_change_what_is_learned(tmp_path: Path) -> None:
    plain = agent_of(copies(Walk)).learn(120)
    evaluated = agent_of(copies(Walk))
    callback = EvalCallback(
        copies(Walk),
        eval_freq=20,
        n_eval_episodes=3,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    evaluated.learn(120, callback)
    assert torch.equal(parameters(plain), parameters(evaluated))
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [40, 80, 120]
    assert KeyQN.load(tmp_path / "best_model", device="cpu").num_timesteps in (40, 80, 120)


def test_checkpoints_of_the_callback_can_be_loaded(tmp_path: Path) -> None:
    agent_of(Walk()).learn(120, CheckpointCallback(60, str(tmp_path), save_replay_buffer=True))
    assert KeyQN.load(tmp_path / "rl_model_120_steps.zip", device="cpu").num_timesteps == 120


# Stable-Baselines3 silences it where it is imported, which pytest undoes.
@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_progress_is_shown_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of(copies(lambda: Monitor(Walk())))
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(200, log_interval=4, progress_bar=True)
    agent.logger.close()
    assert "200/200" in capsys.readouterr().out
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    assert 150 < int(last["time/total_timesteps"]) <= 200
    assert float(last["train/n_updates"]) > 20
    assert float(last["train/loss"]) > 0
    assert np.isfinite(float(last["train/q_value"]))
    assert -25 < float(last["rollout/ep_rew_mean"]) < 25
    assert float(last["rollout/exploration_rate"]) == pytest.approx(0.1, abs=0.05)


def test_a_callback_can_stop_learning_and_what_follows_is_joined_to_nothing() -> None:
    class Line(KeypointGame):
        """The keypoint moves by one hundredth a step."""

        def play(self, action: int) -> tuple[float | None, float, bool, bool]:
            return self.steps / 100, 0.0, False, False

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 21:
                raise KeyboardInterrupt
            return self.num_timesteps != 7

    agent = agent_of(Line(), gradient_steps=0)
    agent.learn(50, Stop())
    assert agent.num_timesteps == 7
    with pytest.raises(KeyboardInterrupt):
        agent.learn(50, Stop(), reset_num_timesteps=False)
    agent.learn(20, reset_num_timesteps=False)
    rows = rows_of(agent)[0]
    x, joined = rows.observation["xy"][0, :, 0, 0], rows.acted[0, :-1] & ~rows.first[0, 1:]
    assert joined.sum() >= 35
    np.testing.assert_allclose(np.diff(x)[joined], 0.01, atol=1e-6)


def test_learning_goes_on_where_it_was() -> None:
    agent = agent_of(Walk()).learn(100)
    updates = agent._n_updates
    agent.learn(50, reset_num_timesteps=False)
    assert agent.num_timesteps == 150
    assert agent._n_updates == updates + 50
    rows = rows_of(agent)[0]
    assert rows.acted.sum() == 150


def test_another_environment_can_be_set() -> None:
    agent = agent_of(copies(Walk)).learn(80)
    agent.set_env(copies(Walk))
    agent.learn(40, reset_num_timesteps=False)
    assert agent.num_timesteps == 120
    for rows in rows_of(agent):
        assert rows.acted.sum() in (59, 60)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        agent.set_env(copies(TwoKeypoints))


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_vector_environments_of_both_kinds_are_learned_in(kind: Callable[..., VecEnv]) -> None:
    env = kind([FeatureWalk, FeatureWalk])
    try:
        agent = agent_of(env, learning_starts=20).learn(60)
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=3, warn=False)
    finally:
        env.close()
    assert np.isfinite(mean)
    assert agent._n_updates == 20
    assert all(rows.acted.sum() == 30 for rows in rows_of(agent))


def test_the_constructor_takes_what_others_take() -> None:
    env = copies(Walk)
    agent = KeyQN("KeypointPolicy", env, verbose=0, stats_window_size=5, device="cpu", policy_kwargs={"network": SMALL})
    assert agent.get_env() is env
    assert agent.policy.network == SMALL
    assert agent_of(Walk(), train_freq=(1, "episode"), learning_starts=0).learn(30).num_timesteps >= 30
