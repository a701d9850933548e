from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpagent.agents.targets import double_q_values, n_step_targets, q_lambda_targets


def slow_targets(
    reward: np.ndarray, terminated: np.ndarray, usable: np.ndarray, value: np.ndarray, n_step: int, discount: float
) -> np.ndarray:
    """The definition, one row at a time."""
    targets = np.zeros(reward.shape)
    for batch, row in np.ndindex(reward.shape):
        total, factor, place = 0.0, 1.0, row
        for _ in range(n_step):
            if place >= reward.shape[1] or not usable[batch, place]:
                break
            total += factor * float(reward[batch, place])
            factor *= discount
            if terminated[batch, place]:
                factor = 0.0
                break
            place += 1
        targets[batch, row] = total + (factor * float(value[batch, place]) if factor else 0)
    return targets


@st.composite
def segments(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reward, terminated, usable and value of windows as the replay gives them: the last row is usable if it terminated."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    terminated = generator.random((batch, length)) < draw(st.sampled_from([0.0, 0.2, 0.6]))
    valid = generator.random((batch, length)) < draw(st.sampled_from([0.6, 0.9, 1.0]))
    follows = np.concatenate([valid[:, 1:], np.zeros((batch, 1), bool)], axis=1)
    reward, value = generator.normal(size=(2, batch, length))
    return reward, terminated, valid & (terminated | follows), value


@given(segment=segments(), n_step=st.integers(1, 12), discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_targets_are_those_of_the_definition(
    segment: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], n_step: int, discount: float
) -> None:
    reward, terminated, usable, value = segment
    parts = [torch.as_tensor(part) for part in segment]
    found = n_step_targets(parts[0], parts[1], parts[2], parts[3], n_step, discount)
    wanted = slow_targets(reward, terminated, usable, value, n_step, discount)
    np.testing.assert_allclose(found.numpy()[usable], wanted[usable], atol=1e-12)


def targets(reward: list[float], terminated: list[int], usable: list[int], n_step: int) -> list[float]:
    ends, can = torch.tensor([terminated]).bool(), torch.tensor([usable]).bool()
    value = 100 * torch.arange(1.0, len(reward) + 1).unsqueeze(0)
    found: list[float] = n_step_targets(torch.tensor([reward]), ends, can, value, n_step, 0.5)[0].tolist()
    return found


def test_one_step_is_reward_and_discounted_value_of_the_next_row() -> None:
    assert targets([1, 2, 3], [0, 0, 0], [1, 1, 0], 1)[:2] == [1 + 0.5 * 200, 2 + 0.5 * 300]


def test_two_steps_are_two_rewards_and_the_value_behind_them() -> None:
    assert targets([1, 2, 4, 8], [0, 0, 0, 0], [1, 1, 1, 0], 2)[:2] == [1 + 0.5 * 2 + 0.25 * 300, 2 + 0.5 * 4 + 0.25 * 400]


def test_at_the_end_of_the_window_fewer_steps_are_summed() -> None:
    assert targets([1, 2, 4, 8], [0, 0, 0, 0], [1, 1, 1, 0], 3)[1:3] == [2 + 0.5 * 4 + 0.25 * 400, 4 + 0.5 * 400]


def test_a_termination_ends_the_sum_without_a_value() -> None:
    assert targets([1, 2, 4, 8], [0, 1, 0, 0], [1, 1, 1, 0], 3)[:2] == [1 + 0.5 * 2, 2]
    # In the last row, too, where nothing follows in the window.
    assert targets([1, 2], [0, 1], [1, 1], 5) == [1 + 0.5 * 2, 2]


def test_a_truncation_is_bootstrapped_from_the_row_that_ends_it() -> None:
    # The third row is the final observation: nothing follows on it, but it has a value.
    assert targets([1, 2, 64, 8], [0, 0, 0, 0], [1, 1, 0, 1], 3)[:2] == [1 + 0.5 * 2 + 0.25 * 300, 2 + 0.5 * 300]


def test_no_value_leaks_from_beyond_a_termination() -> None:
    ends, can = torch.tensor([[False, True, False]]), torch.tensor([[True, True, False]])
    found = n_step_targets(torch.ones(1, 3), ends, can, torch.full((1, 3), 1e30), 3, 0.5)
    assert found[0, :2].tolist() == [1.5, 1.0]


def test_targets_keep_their_precision_and_leave_their_arguments_alone() -> None:
    parts = [torch.rand(2, 5), torch.rand(2, 5) < 0.3, torch.rand(2, 5) < 0.8, torch.rand(2, 5)]
    before = [part.clone() for part in parts]
    assert n_step_targets(parts[0], parts[1], parts[2], parts[3], 3, 0.9).dtype == torch.float32
    assert all(torch.equal(part, kept) for part, kept in zip(parts, before, strict=True))


@pytest.mark.parametrize("changed", range(4))
def test_parts_of_different_shape_are_refused(changed: int) -> None:
    parts = [torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3)]
    parts[changed] = parts[changed][:, :2]
    with pytest.raises(ValueError, match=r"must have one shape \(B, T\)"):
        n_step_targets(parts[0], parts[1], parts[2], parts[3], 1, 0.9)


def test_segments_without_an_axis_of_time_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one shape \(B, T\), not \(3,\)"):
        n_step_targets(torch.zeros(3), torch.zeros(3).bool(), torch.ones(3).bool(), torch.zeros(3), 1, 0.9)


def test_less_than_one_step_is_refused() -> None:
    one = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="n_step must be at least 1, not 0"):
        n_step_targets(one, one.bool(), one.bool(), one, 0, 0.9)


def test_double_q_takes_the_action_of_one_network_and_the_value_of_the_other() -> None:
    online = torch.tensor([[[1.0, 3.0, 2.0]], [[9.0, 0.0, 0.0]]])
    target = torch.tensor([[[10.0, 20.0, 30.0]], [[-1.0, 5.0, 6.0]]])
    assert double_q_values(online, target).tolist() == [20.0, -1.0]
    assert double_q_values(online[0], target[0]).item() == 20.0


def test_critics_agree_on_an_action_and_the_least_of_its_values_counts() -> None:
    # On average the second action is preferred, by neither critic alone.
    online = torch.tensor([[5.0, 4.0, 0.0], [0.0, 4.0, 5.0]])
    target = torch.tensor([[1.0, 7.0, 2.0], [9.0, 6.0, 0.0]])
    assert double_q_values(online, target).item() == 6.0
    assert double_q_values(online, target.flip(0)).item() == 6.0


def test_double_q_refuses_networks_of_different_actions_and_values_without_critics() -> None:
    with pytest.raises(ValueError, match=r"online \(2, 3\) and target \(2, 4\) must have one shape"):
        double_q_values(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"must have one shape \(\.\.\., C, A\)"):
        double_q_values(torch.zeros(3), torch.zeros(3))


def mixture(
    reward: np.ndarray,
    terminated: np.ndarray,
    usable: np.ndarray,
    next_value: np.ndarray,
    next_trace: np.ndarray,
    discount: float,
) -> np.ndarray:
    """Q(λ) of one segment (T,) as a weighted sum of n-step returns; a weight is what the traces leave for its length."""
    returns = np.full(reward.shape, np.nan)
    for start in np.flatnonzero(usable):
        end = start
        while not terminated[end] and end + 1 < len(reward) and usable[end + 1]:
            end += 1
        parts, weights = [], []
        for last in range(start, end + 1):
            powers = discount ** np.arange(last - start + 2)
            rewards = float(powers[:-1] @ reward[start : last + 1])
            parts.append(rewards + (0.0 if terminated[last] else powers[-1] * next_value[last]))
            stops = 1.0 if last == end else 1 - next_trace[last]
            weights.append(stops * np.prod(next_trace[start:last]))
        assert np.isclose(sum(weights), 1)
        returns[start] = np.dot(weights, parts)
    return returns


@st.composite
def traced_segments(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reward, terminated, usable, next value and next trace; nothing is usable after what is not, or after an end."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    each = draw(st.sampled_from([(), (1,), (3, 4)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    terminated = generator.random((batch, length)) < draw(st.sampled_from([0.0, 0.2, 0.6]))
    ended = np.cumsum(terminated, axis=1) - terminated > 0
    kept = generator.integers(length + 1, size=(batch, 1)) if draw(st.booleans()) else length
    usable = (np.arange(length) < kept) & ~ended
    reward, next_value = generator.normal(size=(2, batch, length, *each))
    trace = generator.choice(draw(st.sampled_from([[0.0], [1.0], [0.9], [0.0, 0.9], [0.0, 0.3, 1.0]])), size=reward.shape)
    return reward, terminated, usable, next_value, trace


@given(segment=traced_segments(), discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_q_lambda_is_the_mixture_of_n_step_returns(
    segment: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], discount: float
) -> None:
    reward, terminated, usable, next_value, trace = segment
    parts = [torch.as_tensor(part) for part in segment]
    found = q_lambda_targets(parts[0], parts[1], parts[2], parts[3], parts[4], discount)
    assert found.shape == reward.shape
    assert found.dtype == torch.float64
    for index in np.ndindex(reward.shape[0], *reward.shape[2:]):
        row, column = index[0], (index[0], slice(None), *index[1:])
        wanted = mixture(reward[column], terminated[row], usable[row], next_value[column], trace[column], discount)
        np.testing.assert_allclose(found.numpy()[column][usable[row]], wanted[usable[row]], atol=1e-9)


def q_lambda(
    reward: list[float], terminated: list[int], usable: list[int], next_value: list[float], trace: list[float]
) -> list[float]:
    ends, can = torch.tensor([terminated]).bool(), torch.tensor([usable]).bool()
    rewards, values, traces = (torch.tensor([part], dtype=torch.float64) for part in (reward, next_value, trace))
    found: list[float] = q_lambda_targets(rewards, ends, can, values, traces, 0.5)[0].tolist()
    return found


def test_without_traces_q_lambda_is_one_step() -> None:
    found = q_lambda([1, 2, 4], [0, 0, 0], [1, 1, 1], [100, 200, 300], [0, 0, 0])
    assert found == [1 + 0.5 * 100, 2 + 0.5 * 200, 4 + 0.5 * 300]


def test_with_whole_traces_q_lambda_is_all_rewards_and_the_last_value() -> None:
    found = q_lambda([1, 2, 4], [0, 0, 0], [1, 1, 1], [100, 200, 300], [1, 1, 1])
    assert found == [1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 300, 2 + 0.5 * 4 + 0.25 * 300, 4 + 0.5 * 300]


@given(segment=segments(), discount=st.sampled_from([0.0, 0.5, 0.99]))
def test_with_whole_traces_q_lambda_is_n_step_with_n_beyond_the_segment(
    segment: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], discount: float
) -> None:
    reward, terminated, usable, value = (torch.as_tensor(part) for part in segment)
    usable = usable.cumprod(dim=1).bool()
    wanted = n_step_targets(reward, terminated, usable, value, reward.shape[1] + 1, discount)
    next_value = torch.cat([value[:, 1:], torch.full_like(value[:, :1], 1e9)], dim=1)
    found = q_lambda_targets(reward, terminated, usable, next_value, torch.ones_like(value), discount)
    torch.testing.assert_close(found[usable], wanted[usable])


def test_half_a_trace_is_half_of_each() -> None:
    # The second row: 4 + 0.5 * 300 = 154; the first: half of 200 and half of 154 behind it.
    assert q_lambda([2, 4], [0, 0], [1, 1], [200, 300], [0.5, 0.5]) == [2 + 0.5 * (0.5 * 200 + 0.5 * 154), 154]


def test_a_trace_is_cut_at_the_row_whose_action_was_another() -> None:
    # The third row's action is not the Q-function's own: what follows on it does not count for the rows before.
    found = q_lambda([1, 2, 4, 8], [0, 0, 0, 0], [1, 1, 1, 1], [100, 200, 300, 400], [1, 0, 1, 1])
    assert found[:2] == [1 + 0.5 * 2 + 0.25 * 200, 2 + 0.5 * 200]
    assert found[2] == 4 + 0.5 * 8 + 0.25 * 400


def test_q_lambda_ends_with_the_episode_and_with_what_is_usable() -> None:
    huge = 1e30
    assert q_lambda([1, 2, huge], [0, 1, 0], [1, 1, 0], [100, huge, huge], [1, 1, 1])[:2] == [1 + 0.5 * 2, 2]
    assert q_lambda([1, 2, huge], [0, 0, 0], [1, 1, 0], [100, 200, huge], [1, 1, 1])[:2] == [1 + 1 + 50, 2 + 100]
    # The second row exists, and the third does not: its value is the end of the first row's return.
    assert q_lambda([1, huge], [0, 0], [1, 0], [100, huge], [1, 1])[0] == 1 + 0.5 * 100


def test_q_functions_have_returns_of_their_own() -> None:
    reward = torch.tensor([[[1.0, 10.0], [2.0, 20.0]]])
    value, trace = torch.tensor([[[100.0, 0.0], [200.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    neither = torch.zeros(1, 2, dtype=torch.bool)
    found = q_lambda_targets(reward, neither, ~neither, value, trace, 0.5)
    assert found[0].tolist() == [[1 + 0.5 * 102, 10.0], [2 + 0.5 * 200, 20.0]]


def test_q_lambda_leaves_its_arguments_alone() -> None:
    parts = [torch.rand(2, 5, 3), torch.rand(2, 5) < 0.3, torch.rand(2, 5) < 0.8, torch.rand(2, 5, 3), torch.rand(2, 5, 3)]
    before = [part.clone() for part in parts]
    assert q_lambda_targets(parts[0], parts[1], parts[2], parts[3], parts[4], 0.9).dtype == torch.float32
    assert all(torch.equal(part, kept) for part, kept in zip(parts, before, strict=True))


@pytest.mark.parametrize("changed", range(5))
def test_q_lambda_refuses_parts_that_do_not_fit(changed: int) -> None:
    wide, flags = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    parts = [wide, flags, flags, wide, wide]
    parts[changed] = parts[changed][:, :2]
    with pytest.raises(ValueError, match=r"must be \(B, T, \.\.\.\), terminated and usable \(B, T\)"):
        q_lambda_targets(parts[0], parts[1], parts[2], parts[3], parts[4], 0.9)
