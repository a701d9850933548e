"""Small KeyQN agents, and what tests look at in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.q_network import NetworkConfig
from kpagent.collect.replay import Segments
from kpagent.errors import UsageError

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
