from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest

from kpagent.envs.pushing.scene import PUCK_RADIUS, Scene, draw_scene, wall_distance
from kpagent.errors import UsageError

pytest.importorskip("mujoco")
from kpagent.envs.pushing.rollouts import Rollouts
from kpagent.envs.pushing.simulation import (
    GOAL_COLOR,
    HAND_COLOR,
    PUCK_COLOR,
    TABLE_COLOR,
    WALL_COLOR,
    Simulation,
    places,
    seen,
    to_image,
)

RIGHT, UP, REST = np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.zeros(3)
OPEN = Scene((0.3, 0.0), (0.8, 0.0), (0.0, -0.5), 0.0)
BLOCKED = Scene((0.3, 0.0), (0.9, 0.0), (0.6, 0.0), np.pi / 2)


def actions_at_random(batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Held for a while each, so that the hand gets about."""
    drawn = np.random.default_rng(seed).uniform(-1.5, 1.5, (batch, -(-length // 5), 3))
    drawn[..., 2] -= 1
    return np.repeat(drawn, 5, axis=1)[:, :length]


def test_a_free_hand_moves_as_documented() -> None:
    simulation = Simulation(Scene((0.0, 0.8), (0.0, -0.8), (0.0, 0.4), 0.0))
    np.testing.assert_array_equal(simulation.hand, (0, 0, 0))
    for _ in range(4):
        simulation.step(RIGHT)
    # Force against friction, from rest: x = v (t - lag (1 - exp(-t / lag))).
    lag = 0.05
    assert simulation.hand[0] == pytest.approx(1.0 - lag * (1 - np.exp(-1 / lag)), abs=0.01)
    assert simulation.hand_velocity[0] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(simulation.hand[1:], 0, atol=1e-6)
    simulation.step(UP)
    simulation.step(UP)
    assert simulation.hand[2] == pytest.approx(0.2, abs=0.005)
    for _ in range(4):
        simulation.step(REST)
    assert simulation.hand[2] == pytest.approx(0.2, abs=0.005)
    np.testing.assert_allclose(simulation.puck, (0.0, 0.8), atol=1e-9)


def test_a_pushed_puck_goes_ahead_of_the_hand_and_stops_when_it_stops() -> None:
    simulation = Simulation(OPEN)
    for _ in range(3):
        simulation.step(RIGHT)
    before = simulation.puck
    assert np.linalg.norm(before - simulation.hand[:2]) == pytest.approx(0.15, abs=0.01)
    simulation.step(RIGHT)
    assert simulation.puck[0] - before[0] == pytest.approx(0.25 * 20 / 35, abs=0.01)
    for _ in range(3):
        simulation.step(REST)
    still = simulation.puck
    assert still[1] == pytest.approx(0, abs=1e-6)
    for _ in range(8):
        simulation.step(REST)
    np.testing.assert_allclose(simulation.puck, still, atol=1e-4)


def test_a_puck_that_nothing_touches_does_not_move() -> None:
    simulation = Simulation(OPEN)
    moved = []
    for action in actions_at_random(1, 100)[0]:
        gap = np.linalg.norm(simulation.puck - simulation.hand[:2])
        before = simulation.puck
        simulation.step(action)
        if gap > 0.15 + 0.25:
            moved.append(np.linalg.norm(simulation.puck - before))
    assert len(moved) > 20
    assert max(moved) < 0.02


def test_a_lifted_hand_passes_over_puck_and_wall() -> None:
    simulation = Simulation(BLOCKED)
    for action in [UP, *[RIGHT] * 5]:
        simulation.step(action)
    assert simulation.hand[0] > 1.0
    np.testing.assert_allclose(simulation.puck, BLOCKED.puck, atol=1e-9)


def test_the_wall_stops_the_puck() -> None:
    simulation = Simulation(BLOCKED)
    for _ in range(8):
        simulation.step(RIGHT)
    assert simulation.puck[0] == pytest.approx(0.6 - 0.02 - PUCK_RADIUS, abs=0.01)


def test_nothing_crosses_the_wall_or_leaves_the_table() -> None:
    rollouts, moved = Rollouts(2), 0
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(seed))
        actions = actions_at_random(40, 60, seed)
        actions[..., 2] = -1
        hand, puck = places(rollouts(Simulation(scene), actions))
        moved += int((np.linalg.norm(puck[:, -1] - scene.puck, axis=-1) > 0.05).sum())
        assert wall_distance(scene, puck).min() > PUCK_RADIUS - 0.015
        assert wall_distance(scene, hand[..., :2]).min() > 0.01
        assert np.abs(puck).max() < 1.2 - PUCK_RADIUS + 0.015
        assert np.abs(hand[..., :2]).max() < 1.2 - 0.015
    rollouts.close()
    assert moved > 20


@pytest.mark.parametrize("scene", [OPEN, BLOCKED], ids=["open", "blocked"])
def test_a_state_that_is_set_goes_on_exactly_as_before(scene: Scene) -> None:
    simulation, other = Simulation(scene), Simulation(scene)
    actions = RIGHT + np.random.default_rng(0).normal(0, 0.05, (20, 3)) * (1, 1, 0)
    for action in actions[:1]:
        simulation.step(action)
    state = simulation.get_state()
    copies = [pickle.loads(pickle.dumps(simulation)), copy.deepcopy(simulation)]  # noqa: S301
    track = []
    for action in actions[1:]:
        simulation.step(action)
        track.append(simulation.get_state())
    assert np.ptp([places(one)[1] for one in track], axis=0).max() > 0.01
    other.step(actions[7])
    other.set_state(state)
    simulation.set_state(state)
    for again in (simulation, other, *copies):
        assert again.scene == scene
        for action, expected in zip(actions[1:], track, strict=True):
            again.step(action)
            np.testing.assert_array_equal(again.get_state(), expected)
    with pytest.raises(ValueError, match="state must be"):
        simulation.set_state(state[:-1])


def test_rollouts_are_what_steps_would_give() -> None:
    simulation = Simulation(BLOCKED)
    for _ in range(3):
        simulation.step(RIGHT)
    state = simulation.get_state()
    actions = actions_at_random(7, 6)
    for threads in (1, 2):
        rollouts = Rollouts(threads)
        states = rollouts(simulation, actions)
        np.testing.assert_array_equal(simulation.get_state(), state)
        rollouts.close()
        for sequence, expected in zip(actions, states, strict=True):
            simulation.set_state(state)
            for action, after in zip(sequence, expected, strict=True):
                simulation.step(action)
                np.testing.assert_array_equal(simulation.get_state(), after)
                np.testing.assert_array_equal(simulation.hand, places(after)[0])
                np.testing.assert_array_equal(simulation.puck, places(after)[1])
        simulation.set_state(state)
    with pytest.raises(ValueError, match="actions must be"):
        Rollouts()(simulation, actions[0])


def centre(frame: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Of the pixels that have a colour, in [-1, 1]."""
    rows, columns = np.nonzero((frame == color).all(axis=-1))
    assert len(rows)
    return (2 * np.array([columns.mean(), rows.mean()]) + 1) / len(frame) - 1


def test_all_is_seen_where_it_is_said_to_be() -> None:
    for seed in range(5):
        scene = draw_scene(np.random.default_rng(seed))
        simulation = Simulation(scene)
        for size in (64, 128):
            frame = simulation.render(size)
            puck, hand = seen(simulation.hand, simulation.puck)
            pixel = 2 / size
            np.testing.assert_allclose(centre(frame, PUCK_COLOR), puck, atol=pixel)
            np.testing.assert_allclose(centre(frame, HAND_COLOR), hand, atol=pixel)
            np.testing.assert_allclose(centre(frame, GOAL_COLOR), to_image(scene.goal), atol=2 * pixel)
            np.testing.assert_allclose(centre(frame, WALL_COLOR), to_image(scene.wall), atol=2 * pixel)
            assert (frame == TABLE_COLOR).all(axis=-1).mean() > 0.9
            hidden = simulation.render(size, show_goal=False)
            assert not (hidden == GOAL_COLOR).all(axis=-1).any()
            np.testing.assert_allclose(centre(hidden, PUCK_COLOR), puck, atol=pixel)
        for action in (UP, np.array([0.5, 0.5, 0])):
            simulation.step(action)
        _, hand = seen(simulation.hand, simulation.puck)
        np.testing.assert_allclose(centre(simulation.render(128), HAND_COLOR), hand, atol=2 / 128)
        simulation.close()


def test_colours_are_distinct() -> None:
    colors = np.array([PUCK_COLOR, HAND_COLOR, WALL_COLOR, GOAL_COLOR, TABLE_COLOR], float)
    assert np.linalg.norm(colors[:, None] - colors[None], axis=-1)[np.triu_indices(5, 1)].min() > 90


def test_without_mujoco_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"^pushing needs mujoco: pip install 'kpagent\[control\]'$"):
        Simulation(OPEN)
