"""Trajectory metrics against loops in plain Python and cases whose answer is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.evaluation import trajectories
from kpagent.evaluation.trajectories import (
    detection_error,
    fit_regression,
    objects_found,
    sample_diversity,
    trajectory_error,
)


def slow_error(predicted: np.ndarray, truth: np.ndarray, per_object: bool) -> list[float]:
    """Sample by sample, step by step, object by object."""
    examples, samples, steps, objects, _ = predicted.shape
    found: list[list[float]] = [[] for _ in range(steps)]
    for n in range(examples):
        groups = [[p] for p in range(objects)] if per_object else [list(range(objects))]
        for group in groups:
            tried = []
            for s in range(samples):
                errors = {}
                for t in range(steps):
                    for p in group:
                        if not math.isnan(truth[n, t, p, 0]):
                            errors[t, p] = math.dist(predicted[n, s, t, p], truth[n, t, p])
                tried.append(errors)
            if tried[0]:
                best = min(tried, key=lambda errors: sum(errors.values()) / len(errors))
                for (t, _p), error in best.items():
                    found[t].append(error)
    return [sum(errors) / len(errors) if errors else math.nan for errors in found]


@pytest.mark.parametrize("block", [1, 1_000_000])
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    per_object=st.booleans(),
    absent=st.sampled_from([0.0, 0.3, 0.9]),
)
@settings(max_examples=30)
def test_the_best_sample_is_that_of_a_slow_loop(
    block: int, seed: int, shape: tuple[int, int, int, int], per_object: bool, absent: float
) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(-1, 1, (*shape, 2)).astype(np.float32)
    truth = rng.uniform(-1, 1, (shape[0], *shape[2:], 2))
    truth[rng.random(truth.shape[:-1]) < absent] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "BLOCK", block)
        found = trajectory_error(predicted, truth, per_object)
    np.testing.assert_allclose(found, slow_error(predicted, truth, per_object), atol=1e-6)


def test_each_object_may_have_its_own_best_sample() -> None:
    truth = np.zeros((1, 2, 2, 2))
    predicted = np.zeros((1, 2, 2, 2, 2))
    # Sample 0 misses object 0 by 0.5, sample 1 misses object 1 by 0.2 and 0.4.
    predicted[0, 0, :, 0, 0] = 0.5
    predicted[0, 1, :, 1, 1] = 0.2, 0.4
    np.testing.assert_allclose(trajectory_error(predicted, truth, per_object=True), [0, 0])
    np.testing.assert_allclose(trajectory_error(predicted, truth, per_object=False), [0.1, 0.2])


def test_the_best_sample_is_best_over_all_steps_and_not_at_each() -> None:
    truth = np.zeros((1, 2, 1, 2))
    predicted = np.zeros((1, 2, 2, 1, 2))
    predicted[0, :, :, 0, 0] = [[0.0, 0.3], [0.2, 0.2]]
    np.testing.assert_allclose(trajectory_error(predicted, truth, per_object=True), [0, 0.3])


def test_a_linear_map_is_recovered_and_still_columns_get_no_weight() -> None:
    rng = np.random.default_rng(0)
    moving = rng.uniform(-1, 1, (200, 4))
    keypoints = np.column_stack([np.full(200, 0.3), moving, np.zeros(200), np.full(200, 1e6)])
    weights, offset = rng.normal(size=(4, 3, 2)), rng.normal(size=(3, 2))
    truth = np.tensordot(moving, weights, axes=1) + offset
    truth[rng.random((200, 3)) < 0.3] = np.nan
    plain = fit_regression(keypoints, truth, ridge=0)
    np.testing.assert_allclose(plain.weights[1:5], weights, atol=1e-9)
    for fit in (plain, fit_regression(keypoints, truth)):
        np.testing.assert_array_equal(fit.weights[[0, 5, 6]], 0)
        # New frames, in which what stood still is elsewhere.
        others = rng.uniform(-1, 1, (5, 7, 7))
        expected = np.tensordot(others[..., 1:5], weights, axes=1) + offset
        np.testing.assert_allclose(fit.predict(others), expected, atol=1e-4)


def test_the_fit_is_least_squares() -> None:
    rng = np.random.default_rng(1)
    keypoints, truth = rng.normal(size=(60, 5)), rng.normal(size=(60, 2, 2))
    fit = fit_regression(keypoints, truth, ridge=0)
    design = np.column_stack([keypoints, np.ones(60)])
    expected = design @ np.linalg.lstsq(design, truth.reshape(60, 4), rcond=None)[0]
    np.testing.assert_allclose(fit.predict(keypoints).reshape(60, 4), expected, atol=1e-10)
    doubled = np.column_stack([keypoints, keypoints])
    np.testing.assert_allclose(fit_regression(doubled, truth).predict(doubled), fit.predict(keypoints), atol=1e-5)


def test_a_column_that_hardly_moves_does_not_swamp_predictions() -> None:
    rng = np.random.default_rng(2)
    place = rng.uniform(-1, 1, (500, 2))
    # The third column says a little of the place, at a ten-thousandth of the size.
    keypoints = np.column_stack([place + rng.normal(0, 0.1, (500, 2)), 1e-5 * place[:, 0]])
    predicted = keypoints + rng.normal(0, 0.01, keypoints.shape)
    truth = place[:, None]
    assert detection_error(fit_regression(keypoints, truth).predict(predicted), truth) < 0.2
    assert detection_error(fit_regression(keypoints, truth, ridge=0).predict(predicted), truth) > 10


def test_keypoints_that_all_stand_still_give_the_mean() -> None:
    truth = np.random.default_rng(3).normal(size=(20, 2, 2))
    fit = fit_regression(np.full((20, 6), 0.1, np.float32), truth)
    np.testing.assert_allclose(fit.predict(np.ones((3, 6))), np.broadcast_to(truth.mean(axis=0), (3, 2, 2)))


def test_detection_error_is_the_mean_over_frames_where_the_object_is() -> None:
    truth = np.zeros((2, 2, 3, 2))
    truth[:, :, 2] = truth[1, :, 1] = np.nan
    located = np.zeros((2, 2, 3, 2), np.float32)
    located[0, 0, 0] = 0.3, 0.4
    located[0, :, 1, 0] = 0.25, 0.75
    np.testing.assert_allclose(detection_error(located, truth), [0.125, 0.5, np.nan])


def test_objects_have_keypoints_of_their_own() -> None:
    rng = np.random.default_rng(4)
    truth = rng.uniform(-1, 1, (100, 3, 2))
    # Keypoint 1 follows object 0 at 0.05, keypoint 2 object 1 at half its distance from the centre; nobody follows 2.
    keypoints = np.stack([np.zeros((100, 2)), truth[:, 0] + [0.03, 0.04], 0.5 * truth[:, 1]], axis=1)
    near = objects_found(keypoints, truth, 0.1)
    assert near.keypoint.tolist() == [1, 2, 0]
    assert near.found.tolist() == [True, False, False]
    assert near.error[0] == pytest.approx(0.05)
    mapped = objects_found(keypoints, truth, 0.1, affine=True)
    assert mapped.keypoint.tolist() == [1, 2, 0]
    assert mapped.found.tolist() == [True, True, False]
    np.testing.assert_allclose(mapped.error[:2], 0, atol=1e-5)
    spread = np.linalg.norm(truth[:, 2] - truth[:, 2].mean(axis=0), axis=-1).mean()
    assert mapped.error[2] == pytest.approx(spread, rel=1e-6)


def test_one_keypoint_does_not_stand_for_two_objects() -> None:
    path = np.random.default_rng(5).uniform(-1, 1, (50, 1, 2))
    truth = np.concatenate([path, path + 0.01], axis=1)
    truth[::2, 1] = np.nan
    found = objects_found(np.concatenate([path, np.zeros((50, 1, 2))], axis=1), truth, 0.05)
    assert sorted(found.keypoint.tolist()) == [0, 1]
    assert found.found.sum() == 1


@pytest.mark.parametrize("block", [1, 1_000_000])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 4, 2, 3, 2), np.float64), ((2, 3, 2, 4, 5, 3), np.uint8), ((2, 2, 3, 5), "f4")]
)
def test_diversity_is_that_of_a_slow_loop(block: int, shape: tuple[int, ...], dtype: type | str) -> None:
    rng = np.random.default_rng(6)
    samples = rng.integers(0, 256, shape).astype(dtype)
    expected = np.zeros(shape[2])
    for t in range(shape[2]):
        gaps = []
        for n in range(shape[0]):
            for i in range(shape[1]):
                for j in range(i):
                    a, b = (samples[n, s, t].reshape(-1, shape[-1]).tolist() for s in (i, j))
                    gaps += [math.dist(p, q) for p, q in zip(a, b, strict=True)]
        expected[t] = sum(gaps) / len(gaps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "BLOCK", block)
        np.testing.assert_allclose(sample_diversity(samples), expected, rtol=1e-6)


def test_equal_samples_have_no_diversity() -> None:
    samples = np.broadcast_to(np.random.default_rng(7).normal(size=(2, 1, 3, 4, 2)), (2, 5, 3, 4, 2))
    np.testing.assert_array_equal(sample_diversity(samples), 0)


NAN = np.full((2, 3, 4, 1, 2), np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trajectory_error(np.zeros((2, 3, 4, 1, 2)), np.zeros((2, 5, 1, 2)), True), "must be"),
        (lambda: trajectory_error(np.zeros((2, 0, 4, 1, 2)), np.zeros((2, 4, 1, 2)), True), "must be"),
        (lambda: trajectory_error(NAN, np.zeros((2, 4, 1, 2)), True), "must be finite"),
        (lambda: fit_regression(np.zeros((4, 3)), np.zeros((5, 1, 2))), "must be"),
        (lambda: fit_regression(np.full((4, 3), np.inf), np.zeros((4, 1, 2))), "must be finite"),
        (lambda: fit_regression(np.zeros((4, 3)), np.full((4, 1, 2), np.nan)), "absent from every frame"),
        (lambda: fit_regression(np.zeros((4, 3)), np.zeros((4, 1, 2)), ridge=-1), "ridge"),
        (lambda: fit_regression(np.zeros((4, 3)), np.zeros((4, 1, 2))).predict(np.zeros((4, 2))), r"\(..., 3\)"),
        (lambda: detection_error(np.zeros((4, 1, 2)), np.zeros((4, 2, 2))), "must both be"),
        (lambda: detection_error(np.full((4, 1, 2), np.nan), np.zeros((4, 1, 2))), "must be finite"),
        (lambda: objects_found(np.zeros((4, 1, 2)), np.zeros((4, 2, 2)), 0.1), "1 keypoints cannot follow 2 objects"),
        (lambda: objects_found(np.zeros((4, 1, 2)), np.zeros((5, 1, 2)), 0.1), "must be"),
        (lambda: objects_found(np.zeros((4, 1, 2)), np.zeros((4, 1, 2)), 0.0), "epsilon"),
        (lambda: objects_found(np.full((4, 1, 2), np.nan), np.zeros((4, 1, 2)), 0.1), "must be finite"),
        (lambda: sample_diversity(np.zeros((4, 1, 3, 2))), "two samples or more"),
        (lambda: sample_diversity(NAN), "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
