"""The planner in worlds whose best actions are known, and the contract of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from kpagent.agents.keypoint_mpc import KeypointMPC, MPCConfig
from kpagent.errors import UsageError

STEP = 0.25


class Line(gym.Env[np.ndarray, np.ndarray]):
    """A point on a line; its place is the brightness of the frame, and its reward how near it is to a goal at 0.6."""

    def __init__(self, low: float = -1.0, high: float = 1.0, shape: tuple[int, ...] = (1,)) -> None:
        self.observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.action_space = spaces.Box(low, high, shape, np.float32)
        self.low, self.high = low, high
        self.place, self.left = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.left = -1.0, 12
        return self._frame(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        share = 2 * (float(action.flat[0]) - self.low) / (self.high - self.low) - 1
        self.place, self.left = float(np.clip(self.place + STEP * share, -1, 1)), self.left - 1
        return self._frame(), -((self.place - 0.6) ** 2), False, self.left == 0, {}

    def _frame(self) -> np.ndarray:
        return np.full((4, 4, 3), round((self.place + 1) / 2 * 255), np.uint8)


@dataclass
class Known:
    """The world of `Line`, exact but for the frame's 256 levels; what it was asked is kept."""

    actions: int = 1

    def __post_init__(self) -> None:
        self.followed: list[tuple[float, int]] = []

    def begin(self, frame: np.ndarray) -> float:
        return float(frame[0, 0, 0]) / 255 * 2 - 1

    def follow(self, state: float, action: Tensor, frame: np.ndarray) -> float:
        self.followed.append((float(action[0]), int(frame[0, 0, 0])))
        return self.begin(frame)

    def foresee(self, state: float, actions: Tensor, *, futures: int = 0, seed: int = 0) -> Tensor:
        place, rewards = torch.full((len(actions),), state), []
        for t in range(actions.shape[1]):
            place = (place + STEP * actions[:, t, 0]).clamp(-1, 1)
            rewards.append(-((place - 0.6) ** 2))
        return torch.stack(rewards, dim=1)


class Sum:
    """A world whose best plan is known exactly: a reward is the negative squared distance of the action from a target."""

    actions = 2

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def begin(self, frame: np.ndarray) -> int:
        return 0

    def follow(self, state: int, action: Tensor, frame: np.ndarray) -> int:
        return state + 1

    def foresee(self, state: int, actions: Tensor, *, futures: int = 0, seed: int = 0) -> Tensor:
        return -(actions - self.targets[state : state + actions.shape[1]]).square().sum(dim=-1)


def test_the_best_plan_is_found() -> None:
    env = Line(shape=(2,))
    targets = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    planner = KeypointMPC(env, Sum(targets), MPCConfig(horizon=4, rounds=8, minimal_std=0.0, elite_fraction=0.05))
    frame, state = env.reset()[0], None
    for t in range(6):
        action, state = planner.predict(frame, state, deterministic=True)
        torch.testing.assert_close(state[0].plan, targets[t : t + 4], atol=0.06, rtol=0)
        np.testing.assert_allclose(action, targets[t].numpy(), atol=0.06)
        assert state[0].foretold.sum() > -0.02


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 30.0), (-3.0, -2.0)])
def test_a_task_is_solved_whatever_the_bounds(low: float, high: float) -> None:
    env = Line(low, high)
    planner = KeypointMPC(env, Known(), MPCConfig(candidates=100, horizon=6))
    frame, state, total = env.reset()[0], None, 0.0
    for _ in range(12):
        action, state = planner.predict(frame, state, deterministic=True)
        assert env.action_space.contains(action)
        frame, reward, *_ = env.step(action)
        total += float(reward)
    # As fast as it can: a whole step each time until it is there.
    best = -sum((min(-1 + STEP * t, 0.6) - 0.6) ** 2 for t in range(1, 13))
    assert abs(env.place - 0.6) < 0.1
    assert total > best - 0.15


def test_the_model_is_told_what_was_really_done() -> None:
    env, model = Line(0.0, 30.0), Known()
    planner = KeypointMPC(env, model, MPCConfig(candidates=20, horizon=3, noise=0.5))
    frame, state, sent = env.reset()[0], None, []
    for _ in range(4):
        action, state = planner.predict(frame, state)
        sent.append(float(action[0]) / 15 - 1)
        frame, *_ = env.step(action)
    np.testing.assert_allclose([done for done, _ in model.followed], sent[:3], atol=1e-5)


def test_noise_is_for_actions_that_are_not_deterministic() -> None:
    env = Line()
    frame, _ = env.reset()

    def first(deterministic: bool, seed: int = 0) -> float:
        planner = KeypointMPC(env, Known(), MPCConfig(candidates=50, horizon=3, noise=0.5), seed=seed)
        env.place = 0.6
        return float(planner.predict(env._frame(), deterministic=deterministic)[0][0])

    assert abs(first(True)) < 0.1
    assert first(False) == first(False)
    assert len({round(first(False, seed), 6) for seed in range(4)}) == 4
    assert frame.shape == (4, 4, 3)


def test_it_is_evaluated_as_any_policy() -> None:
    env = DummyVecEnv([lambda: Monitor(Line())])
    planner = KeypointMPC(Line(), Known(), MPCConfig(candidates=60, horizon=5))
    returns, lengths = evaluate_policy(planner, env, n_eval_episodes=2, return_episode_rewards=True)  # type: ignore[arg-type]
    assert lengths == [12, 12]
    assert planner.begun == 2
    assert np.min(returns) > -9


def test_an_episode_begins_where_it_is_said_to() -> None:
    env, model = Line(), Known()
    planner = KeypointMPC(env, model, MPCConfig(candidates=10, horizon=2))
    frame, _ = env.reset()
    action, state = planner.predict(frame[None])
    assert action.shape == (1, 1)
    planner.predict(frame[None], state, episode_start=np.array([True]))
    assert (planner.begun, model.followed) == (2, [])
    planner.predict(frame[None], state, episode_start=np.array([False]))
    assert (planner.begun, len(model.followed)) == (2, 1)
    with pytest.raises(ValueError, match="an observation must be uint8"):
        planner.predict(frame.astype(np.float32))
    with pytest.raises(ValueError, match="an observation must be uint8"):
        planner.predict(np.zeros((2, 4, 4, 3), np.uint8))


def test_what_it_cannot_act_in_is_refused() -> None:
    discrete, endless, vector = Line(), Line(), Line()
    discrete.action_space = spaces.Discrete(2)  # type: ignore[assignment]
    endless.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    vector.observation_space = spaces.Box(-1, 1, (4,), np.float32)
    for env, message in (
        (discrete, "actions in a Discrete space, where a box of numbers is needed"),
        (endless, "has actions without bounds"),
        (vector, r"needs frames \(H, W, 3\) of uint8"),
        (Line(shape=(3,)), "the model has actions of 1 numbers, and those of .* have 3"),
    ):
        with pytest.raises(UsageError, match=message):
            KeypointMPC(env, Known())


@pytest.mark.parametrize("changes", [{"horizon": 0}, {"candidates": 1}, {"rounds": 0}, {"futures": -1}, {"noise": -0.1}])
def test_configurations_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        MPCConfig(**changes)
