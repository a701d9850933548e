from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from point_env import PointEnv

from kpagent.agents.keypoint_world import KeypointWorld, changed_keypoints
from kpagent.agents.pushing_planners import keypoint_planner
from kpagent.agents.reaching import reach
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig
from kpagent.planning.servoing import ServoingConfig
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.keyin import KeyIn


def dynamics(actions: int = 2, **changes: Any) -> StructVRNN:
    torch.manual_seed(0)
    base = StructVRNNConfig.fast(3)
    config = replace(base.dynamics, actions=actions, observed=3, rnn_units=16)
    return StructVRNN(replace(base, code=replace(base.code, **changes), dynamics=config)).eval()


def test_it_sees_keypoints_and_imagines_from_the_last_frames_and_actions() -> None:
    model, env = dynamics(), PointEnv()
    world = KeypointWorld(model, env)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    actions = np.random.default_rng(1).uniform(0, 10, (4, 2)).astype(np.float32)
    np.testing.assert_allclose(world.see(frames[0]), model.encode(frames[:1]).xy.flatten(), atol=1e-6)
    wanted = np.random.default_rng(2).uniform(0, 10, (7, 4, 2)).astype(np.float32)
    for _ in range(2):
        # The second time it is another episode, in which nothing is left of the first.
        for last in range(5):
            state = world.observe(frames[last], actions[last - 1] if last else None)
            window = slice(max(0, last - 2), last + 1)
            belief, _ = model.observe(frames[None, window], actions[None, window.start : last])
            imagined = model.imagine(belief, 4, samples=7, actions=wanted[None])[0].unflatten(-1, (3, 3))[..., :2]
            torch.testing.assert_close(world.foretell(state, wanted), imagined.flatten(-2), atol=1e-5, rtol=1e-4)


def test_only_what_the_goal_has_elsewhere_counts() -> None:
    start = torch.tensor([0.0, 0.0, 0.5, 0.5, -0.5, 0.0])
    goal = torch.tensor([0.3, 0.4, 0.5, 0.55, -0.5, 0.25])
    distance = changed_keypoints(start, goal)
    # Weights of a half and a quarter; the second keypoint is still.
    assert float(distance(start, goal)) == pytest.approx((0.5 * 0.5 + 0.25 * 0.25) / 0.75)
    moved = goal.clone()
    moved[2:4] = -1
    assert float(distance(moved[None, None], goal)) == 0
    same = changed_keypoints(start, start + 0.01)
    assert float(same(start, goal)) == pytest.approx((0.5 + 0.05 + 0.25) / 3)


def test_a_planner_acts_on_keypoints_alone() -> None:
    env, model = PointEnv(), dynamics()
    keyframes = KeyIn(KeyInConfig.keypoints(6, given=1, frames=4, keyframes=2, longest=3, longest_segment=3, units=8)).eval()
    config = ServoingConfig(steps=2, horizon=2, cem=CEMConfig(samples=5, refits=1, bounds=(-1.0, 1.0)))
    planner = keypoint_planner(env, model, keyframes, config=config)
    last = list(reach(planner, env))[-1]
    assert last.number <= 2
    assert last.seen.shape == (3, 2)


def test_models_that_do_not_fit_are_refused() -> None:
    env = PointEnv()
    with pytest.raises(UsageError, match="a planner needs keypoints"):
        KeypointWorld(dynamics(kind="vector"), env)
    with pytest.raises(UsageError, match="the dynamics know no actions"):
        KeypointWorld(dynamics(0), env)
    with pytest.raises(UsageError, match="the dynamics have actions of 3 numbers"):
        KeypointWorld(dynamics(3), env)
    with pytest.raises(UsageError, match="the dynamics have actions of 2 numbers"):
        KeypointWorld(dynamics(), gym.make("CartPole-v1"))
    with pytest.raises(UsageError, match="3 keypoints, and the model of keyframes has not learned on these"):
        keypoint_planner(env, dynamics(), KeyIn(KeyInConfig.keypoints(4)))
