from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.envs.pushing.scene import SUCCESS, Scene, path_length
from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig
from kpagent.planning.costs import EmbeddingDistance, color_center
from kpagent.planning.servoing import Distance, Servo, ServoingConfig

STEP = 0.2


def move(place: Tensor, actions: Tensor) -> Tensor:
    """A point in a plane, (2,) and (N, T, 2) to (N, T, 2)."""
    return place + STEP * actions.cumsum(dim=-2)


def follow(servo: Servo) -> list[Tensor]:
    places = [torch.zeros(2)]
    while (action := servo.act(places[-1], places[-1])) is not None:
        assert action.shape == (2,)
        assert action.abs().max() <= 1
        places.append(move(places[-1], action[None, None])[0, 0])
    return places


def plane(goals: Sequence[Any], distance: Distance | None = None, seed: int = 0, **fields: Any) -> Servo:
    config = dataclasses.replace(ServoingConfig(horizon=3, path_weight=0.3), **fields)
    return Servo(move, distance or EmbeddingDistance(), [torch.tensor(one) for one in goals], 2, config, seed=seed)


def test_the_preset_has_the_values_of_the_paper() -> None:
    config = ServoingConfig()
    assert (config.steps, config.subgoal_steps, config.horizon) == (60, 10, 8)
    assert (config.cem.samples, config.cem.elite_fraction, config.cem.refits) == (200, 0.05, 3)
    assert config.cem.elites == 10
    assert config.cem.bounds == (-1.0, 1.0)


def test_goals_are_reached_one_after_the_other_and_the_last_ends_it() -> None:
    goals = [(0.8, 0.0), (0.8, 0.8), (0.0, 0.8)]
    servo = plane(goals)
    places = follow(servo)
    assert servo.arrived
    assert servo.current == 2
    assert servo.taken == len(places) - 1 < 20
    distances = [[float((place - torch.tensor(goal)).norm()) for place in places] for goal in goals]
    first = [next(number for number, far in enumerate(row) if far < servo.config.reached) for row in distances]
    assert first == sorted(first)
    assert first[-1] == servo.taken
    again = follow(plane(goals))
    assert all(torch.equal(one, other) for one, other in zip(places, again, strict=True))
    assert not torch.equal(follow(plane(goals, seed=1))[1], places[1])


def test_a_subgoal_that_is_not_reached_is_given_up_after_the_limit_and_the_last_is_not() -> None:
    servo = plane([(50.0, 0.0), (50.0, 50.0), (-50.0, 0.0)], subgoal_steps=4, steps=15)
    pursued = []
    place = torch.zeros(2)
    while (action := servo.act(place, place)) is not None:
        pursued.append(servo.current)
        place = move(place, action[None, None])[0, 0]
    assert pursued == [0] * 4 + [1] * 4 + [2] * 7
    assert servo.taken == 15
    assert not servo.arrived
    assert servo.act(place, place) is None


def test_subgoals_that_are_reached_already_take_no_action() -> None:
    servo = plane([(0.0, 0.0), (0.1, 0.0), (0.4, 0.0)])
    servo.act(torch.zeros(2), torch.zeros(2))
    assert servo.current == 2
    there = plane([(0.1, 0.0)])
    assert there.act(torch.zeros(2), torch.zeros(2)) is None
    assert there.arrived
    assert there.taken == 0


def test_a_warm_start_begins_with_the_last_search_one_step_on_and_a_new_subgoal_with_rest() -> None:
    # One candidate, the mean itself, shows what a search begins with.
    asked: list[Tensor] = []

    def dynamics(place: Tensor, actions: Tensor) -> Tensor:
        asked.append(actions[0])
        return move(place, actions)

    config = ServoingConfig(horizon=3, subgoal_steps=3, cem=CEMConfig(refits=2, try_mean=True, bounds=(-1.0, 1.0)))
    far = [torch.tensor([9.0, 0.0]), torch.tensor([-9.0, 0.0])]
    for warm in (True, False):
        asked.clear()
        servo = Servo(dynamics, EmbeddingDistance(), far, 2, dataclasses.replace(config, warm_start=warm))
        for _ in range(4):
            servo.act(torch.zeros(2), torch.zeros(2))
        begins = asked[::2]
        assert torch.equal(begins[0], torch.zeros(3, 2))
        assert torch.equal(begins[3], torch.zeros(3, 2))
        for begin in begins[1:3]:
            assert torch.equal(begin[2], torch.zeros(2))
            assert bool((begin[:2, 0] > 0.3).all()) is warm
            assert warm or torch.equal(begin, torch.zeros(3, 2))


def test_predictions_may_be_of_the_last_frame_alone_and_unknown_distances_are_the_worst() -> None:
    def at_the_end(place: Tensor, actions: Tensor) -> Tensor:
        return move(place, actions)[:, -1:]

    def hidden_above(seen: Tensor, goal: Tensor) -> Tensor:
        return torch.where(seen[..., 1] > 0, torch.nan, (seen - goal).norm(dim=-1))

    config = ServoingConfig(horizon=2)
    servo = Servo(at_the_end, hidden_above, [torch.tensor([1.0, 0.5])], 2, config)
    places = [torch.tensor([0.0, -0.01])]
    for _ in range(5):
        action = servo.act(places[-1], places[-1])
        assert action is not None
        assert np.isfinite(servo.expected)
        places.append(move(places[-1], action[None, None])[0, 0])
    assert float(places[-1][0]) > 0.6
    lost = Servo(at_the_end, lambda seen, goal: torch.full(seen.shape[:-1], torch.nan), [torch.zeros(2)], 2, config)
    rest = lost.act(places[-1], places[-1])
    assert rest is not None
    assert torch.equal(rest, torch.zeros(2))
    assert lost.expected == float("inf")


def test_mistakes_are_named() -> None:
    for fields, message in (
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
        ({"subgoal_steps": 0}, "subgoal_steps must be a whole number"),
        ({"horizon": 2.5}, "horizon must be a whole number, at least 1; got 2.5"),
        ({"reached": -1.0}, "reached must be at least 0; got -1.0"),
        ({"path_weight": float("nan")}, "path_weight must be at least 0; got nan"),
    ):
        with pytest.raises(UsageError, match=message):
            ServoingConfig(**fields)
    with pytest.raises(UsageError, match="a goal and actions of a number or more; got 0 and 2"):
        plane([])
    flat = Servo(move, lambda seen, goal: torch.tensor(9.0) if seen.ndim == 1 else seen[:, 0, 0], [torch.zeros(2)], 2)
    with pytest.raises(ValueError, match=r"distances must be \(200, T\) for the dynamics' answer, not \(200,\)"):
        flat.act(torch.zeros(2), torch.zeros(2))


def test_a_puck_is_pushed_around_the_wall_to_what_pictures_show() -> None:
    pytest.importorskip("mujoco")
    from kpagent.envs.pushing.rollouts import Rollouts
    from kpagent.envs.pushing.simulation import PUCK_COLOR, Simulation, places, seen

    scene = Scene(puck=(0.3, 0.35), goal=(0.3, -0.4), wall=(0.3, 0.0), wall_angle=0.0)
    simulation, rollouts = Simulation(scene), Rollouts()
    wanted = []
    for place in ((-0.2, 0.3), (-0.3, -0.2), scene.goal):
        simulation.begin(dataclasses.replace(scene, puck=place))
        wanted.append(color_center(simulation.render(64, show_goal=False), PUCK_COLOR, 40.0))
    simulation.begin(scene)
    simulation.close()

    def puck_seen(states: np.ndarray) -> np.ndarray:
        return seen(*places(states))[..., 0, :]

    def dynamics(simulation: Simulation, actions: Tensor) -> np.ndarray:
        return puck_seen(rollouts(simulation, actions.numpy()))

    search = CEMConfig(samples=40, refits=2, correlation=0.5, bounds=(-1.0, 1.0))
    servo = Servo(dynamics, EmbeddingDistance(), wanted, 3, ServoingConfig(horizon=6, path_weight=0.3, cem=search))
    passed = set()
    while (action := servo.act(simulation, puck_seen(simulation.get_state()))) is not None:
        simulation.step(action.numpy())
        passed.add(servo.current)
    rollouts.close()
    assert servo.arrived
    assert passed == {0, 1, 2}
    assert path_length(scene, simulation.puck, scene.goal) < SUCCESS
