from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.envs.pushing.demonstrations import NAMES, DemonstrationConfig, Demonstrations, locate
from kpagent.envs.pushing.demonstrator import Demonstration
from kpagent.envs.pushing.scene import PUCK_RADIUS, SUCCESS, path_length, wall_distance
from kpagent.envs.pushing.simulation import GOAL_COLOR, PUCK_COLOR, Simulation, places
from kpagent.errors import UsageError

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def made() -> list[Demonstration]:
    source = Demonstrations(40)
    return [source.demonstration(number) for number in range(40)]


def test_each_has_six_pushes_of_four_to_six_frames(made: list[Demonstration]) -> None:
    for one in made:
        assert (len(one.states), one.actions.shape, one.keyframes.shape) == (31, (31, 3), (31,))
        ends = np.flatnonzero(one.keyframes)
        assert len(ends) == 6
        lengths = np.diff(ends, prepend=0)
        assert (lengths.min() >= 4, lengths.max() <= 6) == (True, True)


def test_the_puck_is_at_a_subgoal_in_each_keyframe_and_goes_straight_between(made: list[Demonstration]) -> None:
    for one in made:
        puck = places(one.states)[1]
        ends = np.flatnonzero(one.keyframes)
        np.testing.assert_allclose(puck[ends], one.route.subgoals, atol=0.04)
        for first, last in itertools.pairwise([0, *ends]):
            way = puck[last] - puck[first]
            aside = (puck[first : last + 1] - puck[first]) @ np.array([-way[1], way[0]]) / np.linalg.norm(way)
            assert np.abs(aside).max() < 0.03
            forth = np.diff(puck[first : last + 1] @ way / np.linalg.norm(way))
            # At first the puck may still come to rest from the push before.
            assert (forth[0] > -0.03, forth[1:].min() > -1e-3) == (True, True)
        # After the last push all comes to rest.
        rest = puck[ends[-1] :]
        np.testing.assert_allclose(rest, rest[[-1]].repeat(len(rest), axis=0), atol=0.03)
        np.testing.assert_allclose(rest[1:], rest[[-1]].repeat(len(rest) - 1, axis=0), atol=1e-4)


def test_each_ends_at_its_goal_and_none_crosses_the_wall(made: list[Demonstration]) -> None:
    for one in made:
        puck = places(one.states)[1]
        error = float(path_length(one.scene, puck[-1], one.scene.goal))
        assert error < min(0.1, SUCCESS)
        dense = np.concatenate([np.linspace(*pair, 20) for pair in itertools.pairwise(puck)])
        assert wall_distance(one.scene, dense).min() > PUCK_RADIUS - 0.005
        local = one.scene.from_wall(dense)
        crossed = local[:-1][local[:-1, 1] * local[1:, 1] < 0]
        assert len(crossed) % 2 == 1
        assert (np.sign(crossed[:, 0]) == 2 * one.route.side - 1).all()
        assert np.abs(crossed[:, 0]).min() > 0.4


def test_both_ways_around_the_wall_occur(made: list[Demonstration]) -> None:
    assert 0.25 < np.mean([one.route.side for one in made]) < 0.75


def test_the_puck_moves_only_when_the_hand_is_at_it(made: list[Demonstration]) -> None:
    for one in made:
        hand, puck = places(one.states)
        moved = np.linalg.norm(np.diff(puck, axis=0), axis=-1)
        gap = np.linalg.norm(hand[:, :2] - puck, axis=-1)
        # A hand that touches at neither end of half a second was not at it in between: it must be lifted before.
        assert (np.minimum(gap[:-1], gap[1:])[moved > 0.005] < 0.17).all()
        # Nor while it is up at both.
        assert moved[(hand[:-1, 2] > 0.14) & (hand[1:, 2] > 0.14)].max(initial=0) < 0.005


def test_actions_are_averages_of_two(made: list[Demonstration]) -> None:
    for one in made:
        assert one.actions.dtype == np.float32
        assert np.abs(one.actions).max() <= 1
        assert np.linalg.norm(one.actions[:, :2], axis=-1).max() <= 1 + 1e-6
        assert not one.actions[-1].any()
        # From rest to rest, the way of the hand is what its forces add up to: a unit a second against its friction alone.
        hand, puck = places(one.states)
        ends = np.flatnonzero(one.keyframes)
        way = (hand[ends[-1], :2] - hand[0, :2]) * 20 + (puck[ends[-1]] - puck[0]) * 15
        np.testing.assert_allclose(0.5 * 20 * one.actions[: ends[-1], :2].sum(axis=0), way, atol=1.2)


def test_one_depends_on_the_seed_and_its_number_alone(made: list[Demonstration]) -> None:
    source = Demonstrations(40)
    for number in (7, 3):
        again = source.demonstration(number)
        np.testing.assert_array_equal(again.states, made[number].states)
        np.testing.assert_array_equal(again.actions, made[number].actions)
        assert again.scene == made[number].scene
    assert Demonstrations(40, seed=1).demonstration(3).scene != made[3].scene
    assert len({one.scene for one in made}) == 40


def test_a_set_is_written_the_same_in_any_blocks(tmp_path: Path, made: list[Demonstration]) -> None:
    write_sequences(tmp_path / "a.h5", Demonstrations(5), block=5)
    write_sequences(tmp_path / "b.h5", Demonstrations(5), block=2)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.digest == Sequences(tmp_path / "b.h5").digest
    assert (sequences.truth_names, sequences.label_names) == (NAMES, ("wall_start", "wall_end"))
    assert sequences.header["config"]["mujoco"]
    batch = sequences.ordered(31, 5)
    for index, one in enumerate(made[:5]):
        np.testing.assert_array_equal(batch["actions"][index], one.actions)
        np.testing.assert_array_equal(batch["keyframes"][index], one.keyframes)
        np.testing.assert_array_equal(batch["truth"][index], locate(one))
        assert batch["labels"][index] == one.route.side
    simulation = Simulation(made[4].scene)
    simulation.set_state(made[4].states[17])
    np.testing.assert_array_equal(batch["frames"][4, 17], simulation.render(64, show_goal=False))


def test_the_truth_is_where_the_colours_are() -> None:
    sequence = next(Demonstrations(1, config=DemonstrationConfig(image_size=128, show_goal=True)).make(0, 1))
    assert sequence.frames.shape == (31, 128, 128, 3)
    assert sequence.truth is not None
    for frame, truth in zip(sequence.frames, sequence.truth, strict=True):
        rows, columns = np.nonzero((frame == PUCK_COLOR).all(axis=-1))
        centre = (2 * np.array([columns.mean(), rows.mean()]) + 1) / 128 - 1
        # The hand's cap may cover a part of it.
        np.testing.assert_allclose(centre, truth[0], atol=0.05)
    assert (sequence.frames[0] == GOAL_COLOR).all(axis=-1).any()


@pytest.mark.parametrize(
    "changes",
    [{"frames": 24}, {"frames": 31.0}, {"shortest": 0}, {"longest": 3}, {"tolerance": 0.5}, {"image_size": 8}],
    ids=str,
)
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(changes))} must be"):
        DemonstrationConfig(**changes)
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match="count must be"):
            Demonstrations(count, seed)
