from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from keypoint_games import (
    ChosenReward,
    Continuous,
    EndlessReward,
    FeatureWalk,
    FourActions,
    KeypointGame,
    LateReward,
    ManyActions,
    OneReward,
    RememberedSide,
    SeenReward,
    Sides,
    TwoKeypoints,
    Walk,
)
from scipy.stats import chisquare
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from kpagent.agents.agent_file import load_agent, save_agent
from kpagent.agents.keyqn import KeyQN
from kpagent.agents.q_network import NetworkConfig
from kpagent.collect.replay import Segments
from kpagent.envs.players import make_players
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors

SMALL = NetworkConfig(bins=4, embedding=32, hidden=16, atoms=1)


def agent_of(env: Any, *, network: NetworkConfig = SMALL, **changes: Any) -> KeyQN:
    settings: dict[str, Any] = {
        "learning_rate": 3e-3,
        "buffer_size": 2_000,
        "learning_starts": 50,
        "batch_size": 16,
        "sequence_length": 6,
        "burn_in": 2,
        "tau": 0.1,
        "gamma": 0.9,
        "n_steps": 1,
        "initial_gamma": 0.9,
        "initial_n_steps": 1,
        "anneal_updates": 0,
        "gradient_steps": 1,
        "exploration_fraction": 0.5,
        "exploration_final_eps": 0.1,
        "clip_rewards": False,
        "policy_kwargs": {"network": network},
        "precision": "float32",
        "seed": 0,
        "device": "cpu",
    }
    return KeyQN(env=env, **settings | changes)


def copies(game: Callable[[], gym.Env[Any, Any]], count: int = 2) -> DummyVecEnv:
    return DummyVecEnv([game] * count)


def values_along(agent: KeyQN, *seen: dict[str, np.ndarray]) -> list[list[float]]:
    """Q-values of each action, one observation of an episode after the other."""
    found, state = [], None
    for one in seen:
        values, state = agent.policy.q_values({name: part[None] for name, part in one.items()}, state)
        found.append(values[0].tolist())
    return found


def parameters(agent: KeyQN) -> torch.Tensor:
    networks = (agent.q_net, agent.q_net_target, agent.q_net_average)
    return torch.cat([part.flatten() for net in networks for part in net.state_dict().values()])


def rows_of(agent: KeyQN) -> list[Segments]:
    """Everything in the replay, one segment for each environment, from the oldest row on."""
    replay = agent.replay
    return [replay.window(np.array([env]), np.array([0]), int(replay.sizes[env]), 0) for env in range(replay.num_envs)]


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# What must be learned: each game has one thing in it that can go wrong.


@pytest.mark.parametrize("atoms", [1, 51])
def test_a_reward_is_learned(atoms: int) -> None:
    network = NetworkConfig(bins=4, embedding=32, hidden=16, atoms=atoms, value_range=(-3, 3))
    agent = agent_of(OneReward(), network=network).learn(200)
    assert values_along(agent, OneReward().seen(0.0)) == [[pytest.approx(1, abs=0.1)]]


def test_values_depend_on_what_is_seen() -> None:
    agent = agent_of(SeenReward()).learn(250)
    game = SeenReward()
    for side in (-1, 1):
        assert values_along(agent, game.seen(0.5 * side)) == [[pytest.approx(side, abs=0.15)]]


def test_values_are_bootstrapped_over_time() -> None:
    agent = agent_of(LateReward(), gamma=0.5, initial_gamma=0.5).learn(300)
    game = LateReward()
    found = values_along(agent, game.seen(-0.5), game.seen(0.5))
    assert found == [[pytest.approx(0.5, abs=0.1)], [pytest.approx(1, abs=0.1)]]


def test_an_episode_that_is_cut_off_is_worth_as_much_as_one_that_goes_on() -> None:
    agent = agent_of(EndlessReward(), gamma=0.5, initial_gamma=0.5).learn(350)
    found = np.ravel(values_along(agent, *[EndlessReward().seen(0.0)] * 4))
    # As an end, the fourth would be worth 1.
    np.testing.assert_allclose(found, 2, atol=0.2)


def test_actions_are_told_apart() -> None:
    agent = agent_of(ChosenReward()).learn(200)
    assert values_along(agent, ChosenReward().seen(0.0)) == [[pytest.approx(-1, abs=0.2), pytest.approx(1, abs=0.2)]]


def test_the_identity_is_learned() -> None:
    # The next side is drawn anew, so that nothing is gained by looking ahead.
    agent = agent_of(copies(Sides), gamma=0.1, initial_gamma=0.1, gradient_steps=2).learn(500)
    assert evaluate_policy(agent, copies(Sides), n_eval_episodes=20, warn=False)[0] == 8


@pytest.mark.parametrize(
    "settings", [{}, {"n_steps": 3, "initial_n_steps": 5, "anneal_updates": 100}], ids=["one", "annealed"]
)
def test_what_was_seen_at_first_is_remembered(settings: dict[str, Any]) -> None:
    agent = agent_of(copies(RememberedSide, 4), gradient_steps=3, learning_starts=100, **settings).learn(1200)
    assert evaluate_policy(agent, copies(RememberedSide), n_eval_episodes=20, warn=False)[0] == 1
    # It is the state that knows: without it, the last observation is the same for both sides.
    blank = {name: part[None] for name, part in RememberedSide().seen(None).items()}
    assert len(agent.predict(blank)[0]) == 1


def test_updates_from_many_games_at_once_learn_too() -> None:
    agent = agent_of(copies(ChosenReward, 4), train_freq=2, gradient_steps=-1).learn(200)
    assert agent._n_updates == 200 - 56 + 8
    assert agent.predict(ChosenReward().seen(0.0), deterministic=True)[0] == 1


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


# What is computed from it.


def slow_loss(agent: KeyQN, window: Segments) -> float:
    """Mean Huber loss of the usable rows behind the burn-in, one row at a time, from the definition."""
    n_step, discount = agent.horizon()
    losses = []
    usable = window.usable()
    for sample in range(len(window.action)):
        values = []
        for net in (agent.q_net, agent.q_net_target):
            state = {name: torch.as_tensor(part[sample : sample + 1]) for name, part in window.state.items()}
            found = []
            for row in range(window.action.shape[1]):
                one = {
                    name: torch.as_tensor(part[sample : sample + 1, row : row + 1])
                    for name, part in window.observation.items()
                }
                first = torch.as_tensor(window.first[sample : sample + 1, row : row + 1])
                with torch.no_grad():
                    logits, state = net(one, first, state)
                found.append(logits[0, 0, :, :, 0].numpy())
            values.append(np.array(found))
        online, target = values
        preferred = online.mean(axis=1).argmax(axis=1)
        for row in range(window.burn_in, window.action.shape[1]):
            if not usable[sample, row]:
                continue
            total, factor, place = 0.0, 1.0, row
            for _ in range(n_step):
                if place >= window.action.shape[1] or not usable[sample, place]:
                    break
                total += factor * float(window.reward[sample, place])
                factor *= discount
                if window.terminated[sample, place]:
                    factor = 0.0
                    break
                place += 1
            if factor:
                total += factor * min(float(critic[preferred[place]]) for critic in target[place])
            for critic in online[row]:
                error = abs(float(critic[window.action[sample, row]]) - total)
                losses.append(error**2 / 2 if error < 1 else error - 0.5)
    return float(np.mean(losses))


@pytest.mark.parametrize(("n_steps", "burn_in"), [(1, 0), (3, 2)])
def test_the_loss_is_the_one_of_the_definition(n_steps: int, burn_in: int) -> None:
    agent = agent_of(copies(FeatureWalk), n_steps=n_steps, initial_n_steps=n_steps, burn_in=burn_in, tau=0.01).learn(150)
    window = agent.replay.sample(12, 6, burn_in, np.random.default_rng(0))
    assert window.terminated.any()
    assert (~window.acted).any()
    loss, _ = agent.loss(window)
    assert loss.item() == pytest.approx(slow_loss(agent, window), rel=1e-3)


def test_a_window_that_holds_nothing_to_learn_from_does_no_harm() -> None:
    agent = agent_of(EndlessReward(), gradient_steps=0).learn(40)
    rows = rows_of(agent)[0]
    last = int(np.flatnonzero(~rows.acted[0])[0])
    # From its first learned row on: the final observation of a truncated episode, and then another episode.
    window = agent.replay.window(np.array([0]), np.array([last]), 6, 0)
    assert not window.usable().any()
    loss, _ = agent.loss(window)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(part.grad is None or torch.isfinite(part.grad).all() for part in agent.q_net.parameters())


@pytest.mark.parametrize(
    ("updates", "n_step", "discount"), [(0, 10, 0.97), (50, 5, 0.98267949), (100, 3, 0.99), (900, 3, 0.99)]
)
def test_horizons_are_annealed_exponentially(updates: int, n_step: int, discount: float) -> None:
    horizons: dict[str, Any] = {"gamma": 0.99, "initial_gamma": 0.97, "n_steps": 3, "initial_n_steps": 10}
    agent = agent_of(Walk(), anneal_updates=100, **horizons)
    agent._n_updates = updates
    assert agent.horizon() == (n_step, pytest.approx(discount))
    assert agent_of(Walk(), anneal_updates=0, **horizons).horizon() == (3, pytest.approx(0.99))


def test_a_reset_takes_the_head_anew_and_half_of_the_rest_and_learning_goes_on() -> None:
    agent = agent_of(Walk(), reset_interval=100, reset_until=0.6, n_steps=2, initial_n_steps=4, anneal_updates=500)
    before: dict[str, torch.Tensor] = {}

    class AtTheReset(BaseCallback):
        def _on_step(self) -> bool:
            if agent.num_timesteps == 100:
                before.update({name: part.clone() for name, part in agent.q_net.state_dict().items()})
            if agent.num_timesteps == 101:
                self.check()
            return True

        def check(self) -> None:
            moved = {name: (part - before[name]).abs().mean() for name, part in agent.q_net.state_dict().items()}
            assert moved["advantage.0.0.weight"] > 0.05
            assert moved["lstm.weight_hh_l0"] > 0.03
            assert agent.last_reset == 49
            assert agent.horizon()[0] == 4

    agent.learn(250, AtTheReset())
    assert before
    # Not at 200, which is after 60% of 250.
    assert agent.last_reset == 49
    assert torch.isfinite(parameters(agent)).all()


def test_the_average_is_that_of_the_last_tenth_of_the_updates() -> None:
    agent = agent_of(Walk(), learning_starts=0, train_freq=1)
    name = "advantage.0.0.weight"
    passed: list[torch.Tensor] = []

    class Recorder(BaseCallback):
        def _on_step(self) -> bool:
            if agent._n_updates > len(passed):
                passed.append(agent.q_net.state_dict()[name].clone())
            return True

    agent.learn(301, Recorder())
    passed = passed[: agent._n_updates]
    if len(passed) < agent._n_updates:
        passed.append(agent.q_net.state_dict()[name].clone())
    # The weight of each network passed, by the definition: one part in n + 10 at the n-th update, of the rest what is left.
    count = len(passed)
    shares = np.array([10 / (n + 10) for n in range(1, count + 1)])
    weights = np.array([shares[n] * np.prod(1 - shares[n + 1 :]) for n in range(count)])
    wanted = sum(float(weight) * network for weight, network in zip(weights, passed, strict=True))
    np.testing.assert_allclose(agent.q_net_average.state_dict()[name], wanted, atol=1e-5)
    # Half of it lies in the last tenth, or nearly.
    assert weights[-count // 10 :].sum() > 0.6
    assert not torch.equal(agent.q_net_average.state_dict()[name], agent.q_net_target.state_dict()[name])


def test_the_target_network_plays_in_training_and_the_average_afterwards() -> None:
    agent = agent_of(Walk(), exploration_initial_eps=0.0, exploration_final_eps=0.0, learning_starts=0, gradient_steps=0)
    seen, _ = Walk().reset(seed=0)
    with torch.no_grad():
        for network, action in ((agent.q_net_target, 0), (agent.q_net_average, 1)):
            network.state_dict()["advantage.0.3.bias"].copy_(torch.eye(agent.q_net.num_actions)[action] * 100)
    assert agent.predict(seen, deterministic=True)[0] == 1
    agent.learn(10)
    assert all((rows.action == 0).all() for rows in rows_of(agent))


def test_jitter_and_half_precision_learn_too() -> None:
    agent = agent_of(copies(SeenReward, 2), jitter=0.02, precision="bf16").learn(300)
    assert [values_along(agent, SeenReward().seen(x))[0][0] for x in (-0.5, 0.5)] == [
        pytest.approx(-1, abs=0.3),
        pytest.approx(1, abs=0.3),
    ]


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


# Keeping.


def test_a_loaded_agent_plays_as_the_one_that_was_saved(tmp_path: Path) -> None:
    agent = agent_of(copies(FeatureWalk), exploration_final_eps=0.5).learn(120)
    agent.provenance = {"env": "walk"}
    agent.save(tmp_path / "agent")
    loaded = KeyQN.load(tmp_path / "agent", device="cpu")
    assert loaded.provenance == {"env": "walk"}
    assert loaded.num_timesteps == 120
    assert torch.equal(parameters(agent), parameters(loaded))
    game = FeatureWalk()
    seen, _ = game.reset(seed=5)
    for deterministic in (True, False):
        agent.set_random_seed(1)
        loaded.action_space.seed(1)
        agent.action_space.seed(1)
        state: Any = None
        other: Any = None
        for _ in range(20):
            action, state = agent.predict(seen, state, deterministic=deterministic)
            again, other = loaded.predict(seen, other, deterministic=deterministic)
            assert action == again
            for part, kept in zip(state, other, strict=True):
                np.testing.assert_array_equal(part, kept)
            seen = game.step(action)[0]


def test_an_agent_from_before_there_was_an_average_plays_with_its_target_network(tmp_path: Path) -> None:
    agent = agent_of(Walk()).learn(60)
    agent.save(tmp_path / "agent")
    about, tensors, optimizer = load_agent(tmp_path / "agent.safetensors", "KeyQN")
    del tensors["q_net_average"]
    save_agent(tmp_path / "old.safetensors", about, tensors, optimizer)
    old = KeyQN.load(tmp_path / "old.safetensors", device="cpu")
    for name, part in agent.q_net_target.state_dict().items():
        assert torch.equal(old.q_net_average.state_dict()[name], part)


@pytest.mark.parametrize("settings", [{}, {"exploration_final_eps": 0.5, "exploration_initial_eps": 0.5}], ids=["", "half"])
def test_a_loaded_agent_learns_on_as_the_one_that_was_saved(tmp_path: Path, settings: dict[str, Any]) -> None:
    agent = agent_of(copies(ChosenReward), **settings).learn(120)
    agent.save(tmp_path / "agent", include=["replay"])
    loaded = KeyQN.load(tmp_path / "agent", copies(ChosenReward), device="cpu")
    agent.learn(60, reset_num_timesteps=False)
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps == 180
    for one, other in zip(rows_of(agent), rows_of(loaded), strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.reward, other.reward)
    assert torch.equal(parameters(agent), parameters(loaded))


def test_two_that_were_loaded_from_one_file_learn_alike(tmp_path: Path) -> None:
    agent_of(copies(Walk)).learn(120).save(tmp_path / "agent", include=["replay"])
    one, other = (KeyQN.load(tmp_path / "agent", copies(Walk), device="cpu").learn(60) for _ in range(2))
    assert torch.equal(parameters(one), parameters(other))


def test_the_replay_and_the_optimizer_are_kept_where_asked(tmp_path: Path) -> None:
    agent = agent_of(copies(Walk)).learn(120)
    agent.save(tmp_path / "plain")
    agent.save(tmp_path / "whole", include=["replay"])
    agent.save(tmp_path / "bare", exclude=["optimizer"])
    found = {name: KeyQN.load(tmp_path / name, copies(Walk), device="cpu") for name in ("plain", "whole", "bare")}
    assert [len(each.replay) for each in found.values()] == [0, len(agent.replay), 0]
    slots = [len(each.policy.optimizer.state) for each in found.values()]
    assert slots == [len(list(agent.q_net.parameters()))] * 2 + [0]
    for each in found.values():
        each.learn(80)


def test_settings_are_kept_and_can_be_changed(tmp_path: Path) -> None:
    agent = agent_of(Walk(), train_freq=(2, "episode"), jitter=0.01, reset_interval=70)
    agent.save(tmp_path / "agent")
    loaded = KeyQN.load(tmp_path / "agent", Walk(), device="cpu", tau=0.25)
    for name in ("learning_rate", "batch_size", "gamma", "jitter", "reset_interval", "seed", "train_freq"):
        assert getattr(loaded, name) == getattr(agent, name)
    assert loaded.tau == 0.25
    assert loaded.policy.network == SMALL


def test_an_agent_without_an_environment_plays_and_learns_once_it_has_one(tmp_path: Path) -> None:
    agent_of(copies(Walk)).learn(60).save(tmp_path / "agent")
    loaded = KeyQN.load(tmp_path / "agent", device="cpu")
    loaded.predict(Walk().seen(0.1))
    with pytest.raises(UsageError) as error:
        loaded.learn(10)
    assert "KeyQN has no environment to learn in" in one_line(error)
    loaded.set_env(copies(Walk))
    loaded.learn(60)


def test_parameters_can_be_handed_over(tmp_path: Path) -> None:
    agent, other = agent_of(Walk()).learn(100), agent_of(Walk(), seed=7)
    other.set_parameters(agent.get_parameters())
    assert torch.equal(parameters(agent), parameters(other))
    agent.save(tmp_path / "agent")
    third = agent_of(Walk(), seed=8)
    third.set_parameters(str(tmp_path / "agent"))
    assert torch.equal(parameters(agent), parameters(third))


@pytest.mark.parametrize("game", [TwoKeypoints, FourActions, FeatureWalk])
def test_an_agent_of_another_game_is_refused(tmp_path: Path, game: type[KeypointGame]) -> None:
    agent_of(Walk()).save(tmp_path / "agent")
    with pytest.raises(UsageError) as error:
        KeyQN.load(tmp_path / "agent", game(), device="cpu")
    assert "plays with 1 keypoints of 0 features and 3 actions; the environment has" in one_line(error)


def test_loading_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_of(Walk()).learn(60).save(tmp_path / "agent", include=["replay"])

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("cloudpickle.loads", refuse)
    KeyQN.load(tmp_path / "agent", device="cpu")
    KeyQN.load(tmp_path / "agent", Walk(), device="cpu")


def test_files_that_do_not_hold_what_they_say_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.safetensors"
    agent_of(Walk()).save(path)
    tensors, header = load_tensors(path)
    without = {name: value for name, value in tensors.items() if name != "q_net/lstm.weight_hh_l0"}
    wrong = header | {"network": header["network"] | {"hidden": 20}}
    unknown = header | {"network": header["network"] | {"heads": 20}}
    stranger = header | {"hyperparameters": header["hyperparameters"] | {"wings": 2}}
    damaged = [{name: value for name, value in header.items() if name != lost} for lost in ("hyperparameters", "progress")]
    cases = [(without, header), *((tensors, other) for other in (wrong, unknown, stranger, *damaged))]
    for some_tensors, some_header in cases:
        save_tensors(path, some_tensors, some_header)
        with pytest.raises(UsageError) as error:
            KeyQN.load(path, device="cpu")
        assert str(path) in one_line(error)


def test_open_files_and_replays_on_their_own_are_refused(tmp_path: Path) -> None:
    agent = agent_of(Walk())
    with (tmp_path / "agent").open("wb") as file, pytest.raises(UsageError, match="to a path"):
        agent.save(file)
    with (tmp_path / "agent").open("rb") as file, pytest.raises(UsageError, match="from a path"):
        KeyQN.load(file)
    for use in (agent.save_replay_buffer, agent.load_replay_buffer):
        with pytest.raises(UsageError, match="its replay with the agent"):
            use(tmp_path / "replay")


# Mistakes.


class EndlessActions(Continuous):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


@pytest.mark.parametrize("game", [Continuous, EndlessActions])
def test_actions_that_are_numbers_are_refused(game: type[KeypointGame]) -> None:
    with pytest.raises(UsageError) as error:
        agent_of(game())
    assert "KeyQN chooses among numbered actions, Discrete(n); the environment's are Box(" in one_line(error)


class Flattened(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([observation["xy"][0], observation["presence"]])


class Frames(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (84, 84, 3), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        return np.zeros((84, 84, 3), np.uint8)


@pytest.mark.parametrize(
    "make",
    [lambda: gym.make("CartPole-v1"), lambda: Flattened(Walk()), lambda: Frames(Walk())],
    ids=["vector", "flat", "frames"],
)
def test_environments_without_keypoints_are_refused(make: Callable[[], gym.Env[Any, Any]]) -> None:
    with pytest.raises(UsageError) as error:
        agent_of(make())
    assert "wrap the environment in kpagent.KeypointObservation(env, WEIGHTS), not flattened" in one_line(error)


@pytest.mark.parametrize(
    "mistake",
    [
        {"sequence_length": 0},
        {"sequence_length": 1},
        {"burn_in": -1},
        {"n_steps": 0},
        {"initial_n_steps": 0},
        {"gamma": 1.5},
        {"initial_gamma": -0.1},
        {"batch_size": 0},
        {"tau": 2.0},
        {"jitter": -1.0},
        {"precision": "fp8"},
        {"buffer_size": 1},
        {"buffer_size": 3},
        {"exploration_final_eps": 1.2},
    ],
    ids=str,
)
def test_mistakes_in_the_settings_get_one_line(mistake: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        agent_of(Walk(), **mistake)
    assert next(iter(mistake)) in one_line(error)


def test_learning_may_start_with_the_first_interaction() -> None:
    agent = agent_of(copies(Walk), learning_starts=0)
    assert agent.learn(40).num_timesteps == 40


# The real thing.


def test_pong_is_played_and_learned_from_with_the_shipped_weights(tmp_path: Path) -> None:
    players = make_players("ALE/Pong-v5", 2, "pong", seed=1)
    try:
        agent = agent_of(players, learning_starts=200, batch_size=8, clip_rewards=True, precision="auto").learn(300)
        for rows in rows_of(agent):
            assert rows.acted.sum() == 150
            assert set(np.unique(rows.reward)) <= {-1, 0, 1}
            assert np.abs(rows.observation["xy"]).max() <= 1
        assert agent._n_updates == 50
        assert torch.isfinite(parameters(agent)).all()
        agent.save(tmp_path / "pong")
        loaded = KeyQN.load(tmp_path / "pong", players, device="cpu")
        assert torch.equal(parameters(loaded), parameters(agent))
    finally:
        players.close()
