from __future__ import annotations

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from point_env import PointEnv, PointWorld, draw
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from kpagent.agents.reaching import Moment, draw_plan, reach
from kpagent.agents.subgoal_planner import SubgoalPlanner, Subgoals
from kpagent.envs.recording import record
from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig
from kpagent.planning.costs import EmbeddingDistance
from kpagent.planning.servoing import ServoingConfig

SEARCH = CEMConfig(samples=40, refits=2, bounds=(-1.0, 1.0))
CONFIG = ServoingConfig(steps=25, horizon=3, path_weight=0.3, cem=SEARCH)
CORNERS = torch.tensor([[0.7, -0.7], [0.7, 0.0]])


def planner(env: PointEnv, **changes: Any) -> SubgoalPlanner:
    return SubgoalPlanner(env, PointWorld(), **({"config": CONFIG} | changes))


def corners(frame: np.ndarray, goal: np.ndarray, distance: Any, seed: int) -> Subgoals:
    return Subgoals(CORNERS, 0.5)


def test_an_episode_goes_by_the_subgoals_to_what_the_image_shows() -> None:
    env = PointEnv()
    agent = planner(env, subgoals=corners)
    moments = list(reach(agent, env))
    last = moments[-1]
    assert last.reached
    assert last.info["distance"] < CONFIG.reached + 1 / 16
    assert len(moments) == last.number + 1 == len(env.actions) + 1
    assert [moment.current for moment in moments] == sorted(moment.current for moment in moments)
    assert {moment.current for moment in moments} == {0, 1, 2}
    seen = np.concatenate([moment.seen for moment in moments])
    for corner in CORNERS.numpy():
        assert np.linalg.norm(seen - corner, axis=-1).min() < CONFIG.reached
    # What the world is told is what was done, in the environment's units.
    told = agent.world.told  # type: ignore[attr-defined]
    assert told[0] is None
    np.testing.assert_array_equal(np.stack(told[1 : len(env.actions) + 1]), env.actions)
    straight = list(reach(planner(PointEnv()), env))
    assert straight[-1].number < last.number


def test_the_seed_decides_everything() -> None:
    done = []
    for seed in (0, 0, 1):
        env = PointEnv()
        list(reach(planner(env, subgoals=corners, seed=seed), env))
        done.append(np.stack(env.actions))
    np.testing.assert_array_equal(done[0], done[1])
    assert not np.array_equal(done[0][0], done[2][0])


def test_it_stops_at_the_limit_where_the_goal_cannot_be_reached_and_then_rests() -> None:
    env = PointEnv()
    stuck = planner(env, config=ServoingConfig(steps=4, horizon=2, cem=SEARCH))
    moments = list(reach(stuck, env, draw(np.array([0.85, 0.85]))))
    assert moments[-1].number == 4
    assert not moments[-1].reached
    action, state = stuck.predict(moments[-1].frame, (moments[-1].pursuit,))
    np.testing.assert_array_equal(action, [5, 5])
    assert state[0].over


def test_stable_baselines_evaluates_it() -> None:
    env = PointEnv()
    agent = planner(env, subgoals=corners)
    agent.set_goal(env.goal_image())
    ended, lengths = evaluate_policy(agent, DummyVecEnv([lambda: env]), 2, return_episode_rewards=True, warn=False)  # type: ignore[arg-type]
    assert lengths == [30, 30]
    assert agent.begun == 2
    idle = 30 * -np.linalg.norm([1.4, 1.4])
    assert np.min(ended) > idle / 2


def test_a_new_episode_begins_where_it_is_said() -> None:
    env = PointEnv()
    agent = planner(env)
    agent.set_goal(env.goal_image())
    frame, _ = env.reset()
    _, state = agent.predict(frame)
    same = agent.predict(frame, state, np.array([False]))[1]
    assert same[0] is state[0]
    assert same[0].servo.taken == 2
    batched, new = agent.predict(frame[None], state, np.array([True]))
    assert batched.shape == (1, 2)
    assert new[0] is not state[0]
    assert agent.begun == 2


def test_unknown_distances_are_the_worst() -> None:
    env = PointEnv()

    def known_above(start: Any, goal: Any) -> Any:
        return lambda seen, wanted: torch.where(seen[..., 1] > -0.6, torch.nan, EmbeddingDistance()(seen, wanted))

    moments = list(reach(planner(env, distance=known_above), env))
    assert max(float(moment.seen[0, 1]) for moment in moments) < -0.3
    assert np.isfinite(env.actions).all()


def test_pictures_of_an_episode(tmp_path: Any) -> None:
    env = PointEnv()
    painted = np.full((2, 32, 32, 3), 90, np.uint8)
    moments: list[Moment] = []
    agent = planner(env, subgoals=lambda *given: Subgoals(CORNERS, 0.5, painted))
    record(reach(agent, env), tmp_path / "reach.mp4", fps=4, on_scene=moments.append)
    sheet = draw_plan(moments)
    # Start, two subgoals and the goal, in two rows.
    assert sheet.shape == (2 * (160 + 4) + 4, 4 * (160 + 4) + 4, 3)
    assert sheet[4 + 2, 4 + 164 + 2].tolist() == [90, 90, 90]
    assert moments[0].title == "subgoal 1 of 2"
    assert moments[-1].note.endswith("reached")
    assert "reached" not in moments[-2].note
    image = cv2.imread(str(tmp_path / "reach.png"))
    assert image is not None
    assert image.std() > 5


def test_mistakes_are_named() -> None:
    env = PointEnv()
    agent = planner(env)
    with pytest.raises(UsageError, match="the planner has no goal"):
        agent.predict(env.reset()[0])
    with pytest.raises(UsageError, match=r"must be uint8 \(32, 32, 3\) as the observations, not uint8 \(16, 16, 3\)"):
        agent.set_goal(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match=r"not float64 \(32, 32, 3\)"):
        agent.set_goal(np.zeros((32, 32, 3)))
    with pytest.raises(UsageError, match="not str"):
        agent.set_goal("goal.png")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the goal image does not show what the planner looks for"):
        agent.set_goal(np.zeros((32, 32, 3), np.uint8))
    agent.set_goal(env.goal_image())
    with pytest.raises(ValueError, match=r"an observation must be \(32, 32, 3\), alone or in a batch of one"):
        agent.predict(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(UsageError, match="needs frames"):
        SubgoalPlanner(gym.make("CartPole-v1"), PointWorld())
    discrete = PointEnv()
    discrete.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="needs actions"):
        planner(discrete)
    with pytest.raises(UsageError, match="needs bounds"):
        planner(env, config=ServoingConfig(cem=CEMConfig()))
    env.goal_image = None  # type: ignore[assignment, method-assign]
    with pytest.raises(UsageError, match="has no goal image of its own"):
        next(reach(agent, env))
