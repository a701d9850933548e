"""The assignment of keypoints to objects against all permutations, tried one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.evaluation.assignment import assign


def world(
    rng: np.random.Generator, frames: int, keypoints: int, objects: int, absent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Random keypoints, and objects that are missing from some frames but never from all."""
    xy = rng.uniform(-1, 1, (frames, keypoints, 2))
    centres = rng.uniform(-1, 1, (frames, objects, 2))
    missing = rng.random((frames, objects)) < absent
    missing[rng.integers(frames, size=objects), np.arange(objects)] = False
    centres[missing] = np.nan
    return xy, centres


def slow_distance(keypoint: np.ndarray, centre: np.ndarray) -> float:
    """Mean distance over the frames where the object is there."""
    found = [math.dist(a, b) for a, b in zip(keypoint, centre, strict=True) if not math.isnan(b[0])]
    return math.fsum(found) / len(found)


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 12),
    keypoints=st.integers(1, 5),
    objects=st.integers(0, 5),
    absent=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_the_sum_is_the_least_of_all_permutations(
    seed: int, frames: int, keypoints: int, objects: int, absent: float
) -> None:
    objects = min(objects, keypoints)
    xy, centres = world(np.random.default_rng(seed), frames, keypoints, objects, absent)
    found = assign(xy, centres)
    table = [[slow_distance(xy[:, k], centres[:, m]) for m in range(objects)] for k in range(keypoints)]
    least = min(
        sum(table[k][m] for m, k in enumerate(chosen)) for chosen in itertools.permutations(range(keypoints), objects)
    )
    assert len(set(found.keypoint.tolist())) == objects == len(found.keypoint)
    np.testing.assert_allclose(found.distance, [table[k][m] for m, k in enumerate(found.keypoint)], atol=1e-12)
    assert found.distance.sum() == pytest.approx(least)
    assert found.per_frame.shape == (frames, objects)
    for t, m in itertools.product(range(frames), range(objects)):
        if np.isnan(centres[t, m, 0]):
            assert np.isnan(found.per_frame[t, m])
        else:
            assert found.per_frame[t, m] == pytest.approx(math.dist(xy[t, found.keypoint[m]], centres[t, m]))
    if objects:
        np.testing.assert_allclose(np.nanmean(found.per_frame, axis=0), found.distance)


def test_the_nearest_keypoint_goes_to_another_object_where_that_is_better_for_all() -> None:
    # Keypoint 0 is nearest to both; giving it to object 0 costs 0.1 + 1.0, to object 1 only 0.2 + 0.3.
    objects = np.array([[[0.0, 0.1], [0.0, -0.2]]])
    keypoints = np.array([[[0.0, 0.0], [0.0, 0.4]]])
    found = assign(keypoints, objects)
    assert found.keypoint.tolist() == [1, 0]
    np.testing.assert_allclose(found.distance, [0.3, 0.2])


def test_a_keypoint_keeps_its_object_in_every_frame() -> None:
    objects = np.stack([np.linspace([-1, 0], [1, 0], 20), np.linspace([1, 0], [-1, 0], 20)], axis=1)
    keypoints = objects[:, ::-1] + 0.01
    # They cross; in single frames the other one is nearer.
    found = assign(keypoints, objects)
    assert found.keypoint.tolist() == [1, 0]
    np.testing.assert_allclose(found.per_frame, 0.01 * math.sqrt(2))


def test_frames_without_an_object_say_nothing_of_it() -> None:
    keypoints = np.zeros((3, 2, 2))
    keypoints[:, 1] = 0.5
    objects = np.array([[[0.1, 0.0]], [[np.nan, np.nan]], [[np.nan, 0.0]]])
    found = assign(keypoints, objects)
    assert found.keypoint.tolist() == [0]
    np.testing.assert_allclose(found.distance, [0.1])
    np.testing.assert_array_equal(np.isnan(found.per_frame[:, 0]), [False, True, True])


@pytest.mark.parametrize(
    ("keypoints", "objects", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 1, 2)), "must be"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2)), "must be"),
        (np.zeros((4, 2, 2)), np.zeros((5, 2, 2)), "must be"),
        (np.zeros((4, 2, 3)), np.zeros((4, 2, 3)), "must be"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2, 1)), "must be"),
        (np.zeros((4, 2, 2)), np.zeros((4, 3, 2)), "2 keypoints cannot follow 3 objects one to one"),
        (np.zeros((4, 2, 2)), np.full((4, 1, 2), np.nan), "absent from every frame"),
        (np.full((4, 2, 2), np.nan), np.zeros((4, 1, 2)), "keypoints must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(keypoints: np.ndarray, objects: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(keypoints, objects)
