from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor

from kpagent.agents.option_clock import EPSILON_RANGE, OptionClock, draw_epsilons, option_actions


def a_clock(num_envs: int, keypoints: int = 3, commitment: int = 20, seed: int = 0) -> OptionClock:
    return OptionClock(num_envs, keypoints, commitment, np.random.default_rng(seed))


def controlled_by(best: list[int], keypoints: int = 4) -> Tensor:
    """Q-values of N copies, in each of which one keypoint can be controlled most."""
    values = 0.1 * torch.rand(len(best), keypoints, 4, 5)
    for env, keypoint in enumerate(best):
        values[env, keypoint, :, 0] += 1
    return values


@given(
    seed=st.integers(0, 2**16),
    num_envs=st.integers(1, 4),
    commitment=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.1, 0.5]),
    evaluation=st.booleans(),
)
def test_an_option_is_kept_for_t_interactions_or_to_the_end_of_its_episode(
    seed: int, num_envs: int, commitment: int, share: float, evaluation: bool
) -> None:
    generator = np.random.default_rng(seed)
    clock = a_clock(num_envs, commitment=commitment, seed=seed)
    kept, since = np.full((num_envs, 2), -1), [0] * num_envs
    for interaction in range(30):
        first = (generator.random(num_envs) < share) | (interaction == 0)
        values = torch.as_tensor(generator.normal(size=(num_envs, 3, 4, 2))) if evaluation else None
        drawn = clock.tick(first, values)
        for env in range(num_envs):
            due = bool(first[env]) or since[env] == commitment
            assert drawn[env] == due
            since[env] = 1 if due else since[env] + 1
            if not due:
                assert (clock.option[env] == kept[env]).all()
        kept = clock.option.copy()


def test_twenty_interactions_are_twenty() -> None:
    clock = a_clock(1, keypoints=100)
    nothing = np.zeros(1, bool)
    drawn = [bool(clock.tick(~nothing if row == 0 else nothing)[0]) for row in range(60)]
    assert [row for row, new in enumerate(drawn) if new] == [0, 20, 40]


def test_an_episode_that_begins_gives_twenty_interactions_anew_in_its_own_copy_alone() -> None:
    clock = a_clock(2, keypoints=100)
    drawn = [clock.tick(np.array([row == 0, row in (0, 7)])) for row in range(50)]
    rows = np.array(drawn)
    assert np.flatnonzero(rows[:, 0]).tolist() == [0, 20, 40]
    assert np.flatnonzero(rows[:, 1]).tolist() == [0, 7, 27, 47]


def test_in_training_all_options_are_as_likely() -> None:
    clock = a_clock(60, commitment=1)
    counts = np.zeros((3, 4), np.int64)
    for _ in range(200):
        clock.tick(np.zeros(60, bool))
        np.add.at(counts, tuple(clock.option.T), 1)
    assert counts.sum() == 12_000
    assert chisquare(counts.ravel()).pvalue > 0.01


def test_copies_draw_for_themselves() -> None:
    clock = a_clock(2, commitment=1)
    pairs = []
    for _ in range(2000):
        clock.tick(np.zeros(2, bool))
        pairs.append(clock.option @ [4, 1])
    same = np.mean([one == other for one, other in pairs])
    assert abs(same - 1 / 12) < 0.03


def test_in_evaluation_the_most_controllable_keypoint_moves_in_any_direction() -> None:
    clock = a_clock(400, keypoints=4)
    best = [env % 4 for env in range(400)]
    assert clock.tick(np.ones(400, bool), controlled_by(best)).all()
    assert clock.option[:, 0].tolist() == best
    assert chisquare(np.bincount(clock.option[:, 1], minlength=4)).pvalue > 0.01


def test_in_evaluation_a_keypoint_is_kept_though_another_can_be_controlled_more() -> None:
    clock = a_clock(3, keypoints=4, commitment=3)
    clock.tick(np.ones(3, bool), controlled_by([0, 1, 2]))
    clock.tick(np.array([False, True, False]), controlled_by([2, 3, 1]))
    assert clock.option[:, 0].tolist() == [0, 3, 2]
    clock.tick(np.zeros(3, bool), controlled_by([3, 3, 3]))
    assert clock.option[:, 0].tolist() == [0, 3, 2]
    clock.tick(np.zeros(3, bool), controlled_by([1, 2, 0]))
    assert clock.option[:, 0].tolist() == [1, 3, 0]


def test_one_seed_gives_one_sequence_of_options() -> None:
    def sequence(seed: int) -> list[list[list[int]]]:
        clock = a_clock(3, commitment=2, seed=seed)
        return [clock.option.tolist() for _ in range(20) if clock.tick(np.zeros(3, bool)) is not None]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


@given(seed=st.integers(0, 2**16), num_envs=st.integers(1, 5))
def test_actions_are_those_that_the_followed_q_function_prefers(seed: int, num_envs: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(num_envs, 3, 4, 6))
    option = np.stack([generator.integers(3, size=num_envs), generator.integers(4, size=num_envs)], axis=1)
    found = option_actions(torch.as_tensor(values), option)
    assert found.dtype == np.int64
    for env in range(num_envs):
        keypoint, direction = option[env]
        assert found[env] == np.argmax(values[env, keypoint, direction])


def test_epsilons_are_log_uniform_over_the_range_of_the_paper() -> None:
    assert EPSILON_RANGE == (1e-4, 0.4)
    epsilons = draw_epsilons(20_000, np.random.default_rng(0))
    assert epsilons.shape == (20_000,)
    assert epsilons.min() >= 1e-4
    assert epsilons.max() <= 0.4
    low, high = np.log10(1e-4), np.log10(0.4)
    assert kstest(np.log10(epsilons), "uniform", args=(low, high - low)).pvalue > 0.01
    # Half of them lie below the geometric mean.
    assert np.median(epsilons) == pytest.approx(np.sqrt(1e-4 * 0.4), rel=0.1)
