"""The tracking metrics against brute force over all assignments, and on sequences whose score is known by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.evaluation.tracking import (
    FrameMatches,
    TrajectoryMatches,
    follow,
    match_trajectories,
    track,
    trajectory_distances,
)


def brute_force(keypoints: np.ndarray, objects: np.ndarray, epsilon: float) -> tuple[int, float]:
    """The most matches that any one-to-one assignment has, and the least sum of distances among those that have as many."""
    frames, count, others = len(keypoints), keypoints.shape[1], objects.shape[1]
    mean = {}
    for k in range(count):
        for m in range(others):
            seen = [np.hypot(*(keypoints[t, k] - objects[t, m])) for t in range(frames) if not np.isnan(objects[t, m, 0])]
            mean[k, m] = sum(seen) / len(seen) if seen else np.inf
    best = (0, 0.0)
    slots = [*range(others), *[-1] * count]
    for chosen in set(permutations(slots, count)):
        cost = [mean[k, m] for k, m in enumerate(chosen) if m >= 0]
        kept = [value for value in cost if value <= epsilon]
        if len(kept) == len(cost):
            best = min(best, (-len(kept), sum(kept)))
    return -best[0], best[1]


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.2, 0.6, 1.2]))
@settings(max_examples=60, deadline=None)
def test_matches_are_those_of_brute_force(seed: int, keypoints: int, objects: int, frames: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    found, truth = rng.uniform(-1, 1, (frames, keypoints, 2)), rng.uniform(-1, 1, (frames, objects, 2))
    truth[rng.random((frames, objects)) < 0.3] = np.nan
    matches = match_trajectories(found, truth, epsilon)
    distances = trajectory_distances(found, truth)
    count, cost = brute_force(found, truth, epsilon)
    assert len(matches) == count
    assert len(set(matches.values())) == count
    assert sum(distances[k, m] for k, m in matches.items()) == pytest.approx(cost)


def test_as_many_pairs_as_can_be_are_matched() -> None:
    # Keypoint 0 is near both objects, keypoint 1 near object 0 alone: the nearest pair (0, 0) would leave only one match.
    found = np.array([[[0.0, 0.0], [0.0, 0.15]]])
    truth = np.array([[[0.0, 0.01], [0.0, -0.19]]])
    assert match_trajectories(found, truth, 0.2) == {0: 1, 1: 0}


def test_absent_frames_do_not_count() -> None:
    found = np.zeros((4, 1, 2))
    truth = np.zeros((4, 2, 2))
    truth[2:, 0] = np.nan
    found[2:] = 0.9
    truth[:, 1] = np.nan
    scores = track(found, truth, 0.2, [1, 2, 4])
    assert scores[1] == TrajectoryMatches(detected=4, present=2, matched=2)
    assert scores[2] == TrajectoryMatches(detected=2, present=1, matched=1)
    assert scores[4] == TrajectoryMatches(detected=1, present=1, matched=1)
    assert scores[2].precision == 0.5
    assert scores[2].recall == 1


def test_a_keypoint_that_jumps_between_objects_tracks_none_for_long() -> None:
    truth = np.tile(np.array([[-0.5, 0.0], [0.5, 0.0]]), (10, 1, 1))
    jumping = np.where(np.arange(10)[:, None, None] % 2, truth[:, 1:], truth[:, :1])
    scores = track(jumping, truth, 0.2, [1, 10])
    assert scores[1].precision == 1
    assert scores[10].matched == 0
    frames = follow(jumping, truth, 0.2)
    assert frames.tracked == 10
    assert frames.switches == 0  # each object has only ever had this keypoint
    assert frames.identified == 5


def test_two_keypoints_that_swap_are_two_switches() -> None:
    truth = np.tile(np.array([[-0.5, 0.0], [0.5, 0.0]]), (10, 1, 1))
    swapped = truth.copy()
    swapped[6:] = truth[6:, ::-1]
    frames = follow(swapped, truth, 0.2)
    assert frames == FrameMatches(present=20, tracked=20, switches=2, distance=0.0, detected=20, identified=12)
    assert frames.idf1 == 0.6
    assert frames.switches_per_1000 == 100


def test_a_nearer_keypoint_does_not_take_over_while_the_first_is_near_enough() -> None:
    truth = np.zeros((3, 1, 2))
    found = np.array([[[0.0, 0.0], [0.5, 0.5]], [[0.1, 0.0], [0.0, 0.0]], [[0.1, 0.0], [0.0, 0.0]]])
    assert follow(found, truth, 0.2).switches == 0
    assert follow(found, truth, 0.05).switches == 1


def test_a_switch_across_a_gap_is_one() -> None:
    truth = np.zeros((4, 1, 2))
    truth[1:3] = np.nan
    found = np.stack([np.stack([np.zeros((4, 2)), np.ones((4, 2))], axis=1)])[0]
    found[3] = found[3, ::-1]
    frames = follow(found, truth, 0.2)
    assert (frames.present, frames.tracked, frames.switches) == (2, 2, 1)


def test_what_does_not_fit_is_refused() -> None:
    some = np.zeros((4, 2, 2))
    with pytest.raises(ValueError, match="must be"):
        track(some, np.zeros((4, 2)), 0.2, [1])
    with pytest.raises(ValueError, match="4 frames of keypoints, 3 of objects"):
        follow(some, np.zeros((3, 2, 2)), 0.2)
    with pytest.raises(ValueError, match="trajectory of 5 frames"):
        track(some, some, 0.2, [5])
    with pytest.raises(ValueError, match="epsilon"):
        match_trajectories(some, some, 0)
