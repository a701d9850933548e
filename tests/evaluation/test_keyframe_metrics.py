from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.evaluation.keyframes import KeyframeMatches, match_keyframes, match_sequences

FRAMES = st.lists(st.integers(0, 12), max_size=5)


def test_f1_by_hand() -> None:
    # Of four found, two are true (10 and 22); of three true, one is missed: precision 2/4, recall 2/3.
    exact = match_keyframes(np.array([4, 10, 17, 22]), np.array([10, 16, 22]))
    assert exact == KeyframeMatches(found=4, present=3, matched=2)
    assert (exact.precision, exact.recall) == (0.5, pytest.approx(2 / 3))
    assert exact.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3)) == pytest.approx(4 / 7)
    # 17 is one frame away from 16.
    assert match_keyframes(np.array([4, 10, 17, 22]), np.array([10, 16, 22]), 1).f1 == pytest.approx(6 / 7)


def test_a_true_keyframe_is_matched_once() -> None:
    assert match_keyframes(np.array([9, 10, 11]), np.array([10]), 1).matched == 1
    assert match_keyframes(np.array([10]), np.array([9, 11]), 1).matched == 1
    # Greedy matching of 10 to 10 would leave 9 with 10 alone.
    assert match_keyframes(np.array([9, 10]), np.array([10, 11]), 1).matched == 2
    assert match_keyframes(np.array([5, 5, 5]), np.array([5, 7]), 0) == KeyframeMatches(1, 2, 1)


@given(FRAMES, FRAMES, st.integers(0, 2))
def test_the_matching_is_the_largest(found: list[int], present: list[int], tolerance: int) -> None:
    ours, true = sorted(set(found)), sorted(set(present))
    few, many = sorted((ours, true), key=len)
    best = max(
        sum(abs(a - b) <= tolerance for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    matches = match_keyframes(np.array(found, int), np.array(present, int), tolerance)
    assert matches == KeyframeMatches(len(ours), len(true), best)


def test_sequences_are_summed_over_the_frames_that_count() -> None:
    found = [np.array([3, 7, 12]), np.array([], int), np.array([6, 34])]
    present = [np.array([7, 13]), np.array([9]), np.array([2, 6, 34])]
    total = match_sequences(found, present, start=5, stop=34)
    assert total == KeyframeMatches(found=2 + 0 + 1, present=2 + 1 + 1, matched=1 + 0 + 1)
    assert total.f1 == pytest.approx(4 / 7)
    assert match_sequences(found, present, 1).matched == 2 + 0 + 2


def test_nothing_is_not_a_number() -> None:
    nothing = match_keyframes(np.array([], int), np.array([], int))
    assert np.isnan([nothing.f1, nothing.precision, nothing.recall]).all()
    assert match_keyframes(np.array([], int), np.array([3])).f1 == 0


def test_what_is_no_list_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found must be \(F,\) frame numbers"):
        match_keyframes(np.array([[1, 2]]), np.array([1]))
    with pytest.raises(ValueError, match=r"present must be \(F,\) frame numbers"):
        match_keyframes(np.array([1]), np.array([1.5]))
    with pytest.raises(ValueError, match="must not be negative"):
        match_keyframes(np.array([1]), np.array([1]), -1)
    with pytest.raises(ValueError, match="2 sequences of keyframes found, 1 of true ones"):
        match_sequences([np.array([1])] * 2, [np.array([1])])
