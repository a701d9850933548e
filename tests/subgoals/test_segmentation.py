from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kpagent.subgoals.segmentation import best_offsets


def cost_of(costs: np.ndarray, offsets: tuple[int, ...], each: float) -> float:
    now, total = 0, 0.0
    for offset in offsets:
        total += costs[now, offset - 1] + each
        now += offset
    return total


@given(
    st.integers(1, 6).flatmap(
        lambda frames: arrays.arrays(np.float64, (2, frames, 3), elements=st.integers(0, 20) | st.just(np.inf))
    ),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_no_other_way_costs_less(costs: np.ndarray, keyframes: int, each: int) -> None:
    frames = costs.shape[1]
    found = best_offsets(torch.from_numpy(costs), keyframes, float(each))
    assert found.shape == (2, keyframes)
    for b in range(2):
        ways = [
            way
            for number in range(1, keyframes + 1)
            for way in itertools.product((1, 2, 3), repeat=number)
            if sum(way) == frames
        ]
        least = min((cost_of(costs[b], way, each) for way in ways), default=np.inf)
        offsets = found[b].tolist()
        used = tuple(offset for offset in offsets if offset)
        assert offsets == [*used, *[0] * (keyframes - len(used))]
        if np.isfinite(least):
            assert sum(used) == frames
            assert cost_of(costs[b], used, each) == least
        else:
            assert not used


def test_ranks_come_first() -> None:
    with pytest.raises(ValueError, match=r"costs must be \(B, N, S\)"):
        best_offsets(torch.zeros(3, 4), 2)
