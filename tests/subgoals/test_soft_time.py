"""Soft time against a slow enumeration of all combinations of offsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpagent.subgoals import soft_time

SIZES = [(1, 1, 1), (1, 3, 4), (2, 2, 3), (3, 1, 5), (3, 3, 5), (3, 4, 2), (4, 3, 12), (2, 3, 9)]


def drawn(segments: int, longest: int, *batch: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, segments, longest, generator=draws, dtype=torch.float64).pow(3).softmax(dim=-1)


def combinations(offsets: np.ndarray) -> Any:
    """Every way the segments can be long, with its probability."""
    segments, longest = offsets.shape
    for lengths in itertools.product(range(1, longest + 1), repeat=segments):
        yield lengths, float(np.prod([offsets[t, length - 1] for t, length in enumerate(lengths)]))


def enumerate_all(offsets: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Times (M, N) of keyframes, and weights (N, M, S) of segments' frames, counted one by one."""
    segments, longest = offsets.shape
    times, weights = np.zeros((segments, frames)), np.zeros((frames, segments, longest))
    for lengths, probability in combinations(offsets):
        now = 0
        for t, length in enumerate(lengths):
            for i in range(length):
                now += 1
                if now <= frames:
                    weights[now - 1, t, i] += probability
            if now <= frames:
                times[t, now - 1] += probability
    return times, weights


@pytest.mark.parametrize(("segments", "longest", "frames"), SIZES)
def test_times_and_weights_are_those_of_an_enumeration(segments: int, longest: int, frames: int) -> None:
    offsets = drawn(segments, longest, 2, 3)
    times = soft_time.keyframe_times(offsets, frames)
    weights = soft_time.frame_weights(offsets, frames)
    within = soft_time.inside(times)
    assert times.shape == (2, 3, segments, frames)
    assert weights.shape == (2, 3, frames, segments, longest)
    for b, c in np.ndindex(2, 3):
        slow_times, slow_weights = enumerate_all(offsets[b, c].numpy(), frames)
        np.testing.assert_allclose(times[b, c], slow_times, atol=1e-12)
        np.testing.assert_allclose(weights[b, c], slow_weights, atol=1e-12)
        np.testing.assert_allclose(within[b, c], slow_times.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize(("segments", "longest", "frames"), SIZES)
def test_targets_and_frames_are_expectations(segments: int, longest: int, frames: int) -> None:
    offsets = drawn(segments, longest)
    draws = np.random.default_rng(0)
    seen, made = draws.normal(size=(frames, 2)), draws.normal(size=(segments, longest, 2))
    keyframe_sum, keyframe_mass = np.zeros((segments, 2)), np.zeros(segments)
    frame_sum, frame_mass = np.zeros((frames, 2)), np.zeros(frames)
    for lengths, probability in combinations(offsets.numpy()):
        now = 0
        for t, length in enumerate(lengths):
            for i in range(length):
                now += 1
                if now <= frames:
                    frame_sum[now - 1] += probability * made[t, i]
                    frame_mass[now - 1] += probability
            if now <= frames:
                keyframe_sum[t] += probability * seen[now - 1]
                keyframe_mass[t] += probability
    targets = soft_time.soft_targets(soft_time.keyframe_times(offsets, frames), torch.from_numpy(seen)).numpy()
    possible = keyframe_mass > 0
    np.testing.assert_allclose(targets[possible], keyframe_sum[possible] / keyframe_mass[possible, None], atol=1e-9)
    np.testing.assert_array_equal(targets[~possible], 0)
    frames_made = soft_time.soft_frames(soft_time.frame_weights(offsets, frames), torch.from_numpy(made)).numpy()
    reached = frame_mass > 0
    np.testing.assert_allclose(frames_made[reached], frame_sum[reached] / frame_mass[reached, None], atol=1e-9)
    np.testing.assert_array_equal(frames_made[~reached], 0)


def test_a_segment_lasts_for_its_frames() -> None:
    offsets = torch.tensor([[0.1, 0.2, 0.7]])
    torch.testing.assert_close(soft_time.lasting(offsets), torch.tensor([[1.0, 0.9, 0.7]]))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 14))
def test_sure_offsets_say_where_everything_is(lengths: list[int], frames: int) -> None:
    offsets = torch.nn.functional.one_hot(torch.tensor(lengths) - 1, 4).double()
    ends = np.cumsum(lengths)
    assert soft_time.hard_times(offsets).tolist() == ends.tolist()
    times = soft_time.keyframe_times(offsets, frames)
    assert soft_time.inside(times).tolist() == [float(end <= frames) for end in ends]
    segment, place = soft_time.hard_frames(soft_time.hard_times(offsets), frames)
    weights = soft_time.frame_weights(offsets, frames)
    for n in range(frames):
        if n < ends[-1]:
            assert weights[n].nonzero().tolist() == [[int(segment[n]), int(place[n])]]
            assert weights[n].sum() == 1
        else:
            assert not weights[n].any()
            assert (int(segment[n]), int(place[n])) == (len(lengths) - 1, n - int(ends[-1]) + lengths[-1])


@pytest.mark.parametrize(
    "function",
    [
        lambda offsets: soft_time.keyframe_times(offsets, 5),
        lambda offsets: soft_time.frame_weights(offsets, 5),
        lambda offsets: soft_time.soft_targets(soft_time.keyframe_times(offsets, 5), torch.arange(10.0).double().view(5, 2)),
        lambda offsets: soft_time.soft_frames(
            soft_time.frame_weights(offsets, 5), torch.arange(18.0).double().sin().view(3, 3, 2)
        ),
    ],
)
def test_gradients(function: Callable[[Tensor], Tensor]) -> None:
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: function(values.softmax(dim=-1)), logits)


def test_gradients_reach_what_is_mixed() -> None:
    made = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weights = soft_time.frame_weights(drawn(3, 3), 5)
    assert torch.autograd.gradcheck(lambda values: soft_time.soft_frames(weights, values), made)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: soft_time.keyframe_times(torch.ones(3), 4),
        lambda: soft_time.keyframe_times(torch.ones(2, 3), 0),
        lambda: soft_time.frame_weights(torch.ones(3), 4),
        lambda: soft_time.inside(torch.ones(3)),
        lambda: soft_time.lasting(torch.ones(3)),
        lambda: soft_time.hard_times(torch.ones(3)),
        lambda: soft_time.hard_frames(torch.ones((), dtype=torch.int64), 4),
        lambda: soft_time.soft_targets(torch.ones(2, 4), torch.ones(3, 1)),
        lambda: soft_time.soft_targets(torch.ones(2, 4), torch.ones(4)),
        lambda: soft_time.soft_frames(torch.ones(4, 2, 3), torch.ones(3, 2, 1)),
        lambda: soft_time.soft_frames(torch.ones(2, 3), torch.ones(2, 3, 1)),
    ],
)
def test_ranks_come_first(wrong: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., |1 frame or more|differ in N"):
        wrong()
