"""What KeyQN learns, and from what it computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keypoint_games import (
    ChosenReward,
    EndlessReward,
    FeatureWalk,
    LateReward,
    OneReward,
    RememberedSide,
    SeenReward,
    Sides,
    Walk,
)
from small_keyqn import agent_of, copies, parameters, rows_of, values_along
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.q_network import NetworkConfig
from kpagent.collect.replay import Segments
from kpagent.envs.players import make_players

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
