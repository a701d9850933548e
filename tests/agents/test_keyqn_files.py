"""How KeyQN agents are kept and handed over, and what is refused."""

from __future__ import annotations

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
    FeatureWalk,
    FourActions,
    KeypointGame,
    TwoKeypoints,
    Walk,
)
from small_keyqn import SMALL, agent_of, copies, one_line, parameters, rows_of

from kpagent.agents.agent_file import load_agent, save_agent
from kpagent.agents.keyqn import KeyQN
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors

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
