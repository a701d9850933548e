from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.keypoints import Keypoints
from kpagent.planning.cem import CEMConfig
from kpagent.planning.costs import ColorDistance, EmbeddingDistance, KeypointDistance
from kpagent.planning.subgoal_planning import plan_subgoals


def walk(latents: Tensor) -> Tensor:
    """A keyframe model of six steps in a plane, none longer than 0.5: (N, 6, 2) to (N, 6, 2)."""
    return (0.5 * torch.tanh(latents)).cumsum(dim=1)


def test_the_last_keyframe_of_a_plan_is_at_the_goal() -> None:
    goal = torch.tensor([1.5, -0.6])
    config = CEMConfig(refits=20, elite_fraction=0.1)
    plan = plan_subgoals(walk, EmbeddingDistance(), goal, (6, 2), config, seed=1)
    assert plan.keyframes.shape == plan.latents.shape == (6, 2)
    torch.testing.assert_close(plan.keyframes, walk(plan.latents[None])[0])
    np.testing.assert_allclose(plan.keyframes[-1], goal, atol=0.01)
    assert plan.cost == pytest.approx(float((plan.keyframes[-1] - goal).norm()), abs=1e-6)
    steps = [float((after - before).abs().max()) for before, after in itertools.pairwise(plan.keyframes)]
    assert max(steps) <= 0.5
    again = plan_subgoals(walk, EmbeddingDistance(), goal, (6, 2), config, seed=1)
    assert torch.equal(again.latents, plan.latents)
    assert not torch.equal(plan_subgoals(walk, EmbeddingDistance(), goal, (6, 2), config, seed=2).latents, plan.latents)


def test_the_values_of_the_paper_are_the_preset_and_beat_one_draw_of_as_many() -> None:
    asked: list[int] = []

    def sample(latents: Tensor) -> Tensor:
        asked.append(len(latents))
        return walk(latents)

    goals = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    planned = [plan_subgoals(sample, EmbeddingDistance(), goal, (6, 2), seed=3).cost for goal in goals]
    assert asked == [200, 200, 200, 1] * 12
    once = CEMConfig(samples=600, refits=1)
    drawn = [plan_subgoals(walk, EmbeddingDistance(), goal, (6, 2), once, seed=3).cost for goal in goals]
    assert np.mean(planned) < np.mean(drawn)


def test_a_goal_out_of_reach_gives_the_way_that_ends_nearest() -> None:
    plan = plan_subgoals(
        walk, EmbeddingDistance(), torch.tensor([10.0, 0.0]), (6, 2), CEMConfig(refits=30, elite_fraction=0.1)
    )
    assert plan.cost == pytest.approx(7, abs=0.3)


def test_keyframes_may_be_frames_or_keypoints() -> None:
    color = (179, 89, 134)

    def paint(latents: Tensor) -> np.ndarray:
        places = walk(latents).clamp(-0.95, 0.95).numpy()
        frames = np.zeros((*places.shape[:2], 32, 32, 3), np.uint8)
        for index in np.ndindex(*places.shape[:2]):
            column, row = ((places[index] + 1) * 16).astype(int)
            frames[index][row, column] = color
        return frames

    goal = np.zeros((32, 32, 3), np.uint8)
    goal[20, 25] = color
    plan = plan_subgoals(paint, ColorDistance(color), goal, (6, 2))
    assert plan.cost == 0
    np.testing.assert_array_equal(plan.keyframes[-1], goal)

    def detect(latents: Tensor) -> Keypoints:
        places = walk(latents).unsqueeze(-2)
        return Keypoints(places, torch.ones(places.shape[:-1]), places[..., :0])

    wanted = Keypoints(torch.tensor([[0.4, 0.2]]), torch.ones(1), torch.zeros(1, 0))
    found = plan_subgoals(detect, KeypointDistance(), wanted, (6, 2))
    assert found.cost < 0.1
    assert found.keyframes.xy.shape == (6, 1, 2)
    hidden = plan_subgoals(paint, ColorDistance(color), np.zeros_like(goal), (6, 2))
    assert hidden.cost == float("inf")
