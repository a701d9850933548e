"""The geometry of keypoints against loops over cells, written from the papers' formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpagent.keypoints import (
    Keypoints,
    cell_centres,
    gaussian_maps,
    joint_expectation,
    map_expectation,
    marginal_expectation,
    mean_intensity,
    pool_features,
    scaled_gaussian_maps,
    thermometer,
)

EXPECTATIONS: list[Callable[[Tensor], Tensor]] = [marginal_expectation, joint_expectation, map_expectation]
sides = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def centre(index: int, size: int) -> float:
    """The middle between the edges of a cell, the first edge being -1 and the last +1."""
    left, right = -1 + 2 * index / size, -1 + 2 * (index + 1) / size
    return (left + right) / 2


def random_maps(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 3, shape))


def loop_marginal(logits: np.ndarray) -> tuple[float, float]:
    height, width = logits.shape
    over_columns = [math.exp(sum(logits[i, j] for i in range(height)) / height) for j in range(width)]
    over_rows = [math.exp(sum(logits[i, j] for j in range(width)) / width) for i in range(height)]
    x = sum(p * centre(j, width) for j, p in enumerate(over_columns)) / sum(over_columns)
    y = sum(p * centre(i, height) for i, p in enumerate(over_rows)) / sum(over_rows)
    return x, y


def loop_weighted(weights: np.ndarray) -> tuple[float, float]:
    height, width = weights.shape
    x = y = total = 0.0
    for i in range(height):
        for j in range(width):
            x += weights[i, j] * centre(j, width)
            y += weights[i, j] * centre(i, height)
            total += weights[i, j]
    return x / total, y / total


@given(sides)
def test_cells_fill_the_image_from_edge_to_edge(size: int) -> None:
    expected = [centre(i, size) for i in range(size)]
    torch.testing.assert_close(cell_centres(size, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64))


@given(seeds, sides, sides)
def test_marginal_expectation_is_the_papers(seed: int, height: int, width: int) -> None:
    logits = random_maps(seed, height, width) - 1.5
    torch.testing.assert_close(marginal_expectation(logits[None])[0].tolist(), list(loop_marginal(logits.numpy())))


@given(seeds, sides, sides)
def test_joint_expectation_weighs_each_cell_by_its_exponential(seed: int, height: int, width: int) -> None:
    logits = random_maps(seed, height, width) - 1.5
    torch.testing.assert_close(joint_expectation(logits[None])[0].tolist(), list(loop_weighted(np.exp(logits.numpy()))))


@given(seeds, sides, sides, st.sampled_from([1e-12, 1e-6, 0.1]))
def test_map_expectation_weighs_each_cell_by_its_value(seed: int, height: int, width: int, epsilon: float) -> None:
    maps = random_maps(seed, height, width)
    expected = list(loop_weighted(maps.numpy() + epsilon))
    torch.testing.assert_close(map_expectation(maps[None], epsilon)[0].tolist(), expected)


def test_an_empty_map_has_its_place_at_the_centre() -> None:
    torch.testing.assert_close(map_expectation(torch.zeros(2, 5, 8)), torch.zeros(2, 2))


@given(seeds, sides, sides)
def test_mean_intensity_is_the_sum_over_the_number_of_cells(seed: int, height: int, width: int) -> None:
    maps = random_maps(seed, height, width)
    expected = sum(maps[i, j].item() for i in range(height) for j in range(width)) / (height * width)
    assert mean_intensity(maps[None]).item() == pytest.approx(expected, rel=1e-12)


@given(seeds, sides, sides, st.floats(0.02, 2))
def test_gaussian_maps_fall_with_the_squared_distance(seed: int, height: int, width: int, std: float) -> None:
    xy = random_maps(seed, 3, 2) / 1.5 - 1
    expected = np.empty((3, height, width))
    for k, i, j in np.ndindex(3, height, width):
        squared = (xy[k, 0].item() - centre(j, width)) ** 2 + (xy[k, 1].item() - centre(i, height)) ** 2
        expected[k, i, j] = math.exp(-squared / (2 * std**2))
    torch.testing.assert_close(gaussian_maps(xy, height, width, std), torch.from_numpy(expected))


@given(seeds, sides, st.floats(0.5, 3))
def test_scaled_gaussian_maps_have_a_width_in_cells(seed: int, size: int, std_cells: float) -> None:
    xy, scale = random_maps(seed, 3, 2) / 1.5 - 1, random_maps(seed + 1, 3)
    expected = np.empty((3, size, size))
    for k, i, j in np.ndindex(3, size, size):
        # In cells: column j has its centre at j + 1/2, and -1 to 1 is 0 to `size`.
        column, row = ((xy[k, axis].item() + 1) / 2 * size for axis in (0, 1))
        squared = (column - (j + 0.5)) ** 2 + (row - (i + 0.5)) ** 2
        expected[k, i, j] = scale[k].item() * math.exp(-squared / (2 * std_cells**2))
    torch.testing.assert_close(scaled_gaussian_maps(xy, scale, size, size, std_cells), torch.from_numpy(expected))


def test_scaled_gaussian_maps_are_square() -> None:
    with pytest.raises(ValueError, match="square, not 4x5"):
        scaled_gaussian_maps(torch.zeros(1, 2), torch.ones(1), 4, 5)


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 40))
def test_a_place_has_one_coordinate_at_every_resolution(x: float, y: float, tenths: int) -> None:
    # Far enough inside that the border cuts off nothing that counts.
    place = torch.tensor([[0.6 * x, 0.6 * y]], dtype=torch.float64)
    std = 0.06 + tenths / 1000
    for size in (64, 84, 128):
        torch.testing.assert_close(map_expectation(gaussian_maps(place, size, size, std), 0.0), place, atol=1e-4, rtol=0)
        wide = map_expectation(gaussian_maps(place, size, 2 * size, std), 0.0)
        torch.testing.assert_close(wide, place, atol=1e-4, rtol=0)


def test_the_middle_of_the_image_is_zero_at_every_resolution() -> None:
    for size in (64, 84, 128):
        block = torch.zeros(1, size, size, dtype=torch.float64)
        block[0, size // 4 : size // 2, size // 2 : 3 * size // 4] = 1
        # The block reaches from -1/2 to 0 in y and from 0 to 1/2 in x, whatever the size.
        torch.testing.assert_close(map_expectation(block, 0.0), torch.tensor([[0.25, -0.25]], dtype=torch.float64))


@given(st.integers(0, 11), st.integers(0, 7), st.integers(0, 11), st.integers(0, 7))
def test_moving_a_blob_by_cells_moves_its_place_by_as_many_cell_widths(x0: int, y0: int, x1: int, y1: int) -> None:
    height, width = 8, 12
    before, after = torch.zeros(2, 1, height, width, dtype=torch.float64)
    before[0, y0, x0] = after[0, y1, x1] = 200
    shift = torch.tensor([[2 * (x1 - x0) / width, 2 * (y1 - y0) / height]], dtype=torch.float64)
    moved = joint_expectation(after) - joint_expectation(before)
    torch.testing.assert_close(moved, shift, atol=1e-9, rtol=0)
    torch.testing.assert_close(map_expectation(after, 0.0) - map_expectation(before, 0.0), shift)
    loud = [marginal_expectation(blob * 1000) for blob in (before, after)]
    torch.testing.assert_close(loud[1] - loud[0], shift, atol=1e-9, rtol=0)


@pytest.mark.parametrize("expectation", EXPECTATIONS)
@given(seed=seeds, height=sides, width=sides)
def test_mirroring_the_map_negates_the_coordinate(
    expectation: Callable[[Tensor], Tensor], seed: int, height: int, width: int
) -> None:
    maps = random_maps(seed, 2, height, width)
    xy = expectation(maps)
    torch.testing.assert_close(expectation(maps.flip(-1)), xy * torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(expectation(maps.flip(-2)), xy * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(expectation(maps.mT), xy.flip(-1))
    assert bool((xy.abs() < 1).all())


@given(seeds)
def test_mirroring_the_coordinate_mirrors_the_gaussian(seed: int) -> None:
    xy = random_maps(seed, 2, 2) / 1.5 - 1
    maps = gaussian_maps(xy, 5, 7, 0.4)
    torch.testing.assert_close(gaussian_maps(xy * torch.tensor([-1.0, 1.0]), 5, 7, 0.4), maps.flip(-1))
    torch.testing.assert_close(gaussian_maps(xy * torch.tensor([1.0, -1.0]), 5, 7, 0.4), maps.flip(-2))
    assert float(maps.max()) <= 1


@given(seeds, st.lists(st.integers(0, 3), max_size=3))
def test_any_leading_axes_are_a_batch(seed: int, leading: list[int]) -> None:
    maps, xy = random_maps(seed, *leading, 2, 4, 5), random_maps(seed, *leading, 2, 2) / 1.5 - 1
    features, scale = random_maps(seed, *leading, 3, 4, 5), random_maps(seed, *leading, 2)
    batched: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        *((expectation, [maps]) for expectation in EXPECTATIONS),
        (mean_intensity, [maps]),
        (lambda xy: gaussian_maps(xy, 4, 5, 0.3), [xy]),
        (lambda xy, scale: scaled_gaussian_maps(xy, scale, 4, 4), [xy, scale]),
        (lambda xy: thermometer(xy, 5), [xy]),
        (pool_features, [features, maps]),
    ]
    for function, arguments in batched:
        together = function(*arguments)
        assert tuple(together.shape[: len(leading)]) == tuple(leading)
        for index in np.ndindex(*leading):
            torch.testing.assert_close(together[index], function(*(argument[index] for argument in arguments)))


@given(st.floats(-1, 1), st.integers(1, 64))
def test_thermometer_counts_the_parts_up_to_the_coordinate(coordinate: float, bins: int) -> None:
    code = thermometer(torch.tensor(coordinate, dtype=torch.float64), bins).tolist()
    assert code == [1.0 if coordinate >= -1 + 2 * j / bins else 0.0 for j in range(bins)]
    assert code == sorted(code, reverse=True)
    assert code[0] == 1
    # The part that holds the coordinate, counted from one; its edge may fall either way in the last bit.
    assert abs(sum(code) - min(bins, math.floor((coordinate + 1) / 2 * bins) + 1)) <= 1


@given(st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=8), st.integers(1, 20))
def test_thermometer_never_falls_as_the_coordinate_grows(coordinates: list[float], bins: int) -> None:
    counts = thermometer(torch.tensor(sorted(coordinates)), bins).sum(dim=-1)
    assert bool((counts.diff() >= 0).all())


def test_thermometer_saturates_outside_the_image_and_keeps_the_dtype() -> None:
    code = thermometer(torch.tensor([-3.0, -1.0, -0.01, 0.0, 1.0, 3.0], dtype=torch.bfloat16), 4)
    assert code.dtype is torch.bfloat16
    assert code.sum(dim=-1).tolist() == [0, 1, 2, 3, 4, 4]


@given(seeds, sides, sides)
def test_pooled_features_are_averages_weighted_by_the_heatmap(seed: int, height: int, width: int) -> None:
    features, heatmaps = random_maps(seed, 3, height, width) - 1, random_maps(seed + 1, 2, height, width) + 0.01
    expected = np.zeros((2, 3))
    for k, d in np.ndindex(2, 3):
        total = 0.0
        for i, j in np.ndindex(height, width):
            expected[k, d] += heatmaps[k, i, j].item() * features[d, i, j].item()
            total += heatmaps[k, i, j].item()
        expected[k, d] /= total
    torch.testing.assert_close(pool_features(features, heatmaps), torch.from_numpy(expected))


def test_pooling_constant_features_gives_the_constant_even_at_the_corner() -> None:
    corner = gaussian_maps(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 8, 8, 0.1)
    torch.testing.assert_close(pool_features(torch.full((4, 8, 8), 2.5), corner), torch.full((2, 4), 2.5))


def test_pooling_under_an_empty_heatmap_or_no_features_is_finite() -> None:
    assert pool_features(torch.ones(4, 8, 8), torch.zeros(2, 8, 8)).tolist() == [[0.0] * 4] * 2
    assert pool_features(torch.ones(0, 8, 8), torch.ones(2, 8, 8)).shape == (2, 0)


@pytest.mark.parametrize("function", [marginal_expectation, joint_expectation, map_expectation, pool_features])
def test_derivatives_are_those_of_finite_differences(function: Callable[..., Tensor]) -> None:
    maps = random_maps(0, 2, 3, 4).requires_grad_()
    arguments = (random_maps(1, 5, 3, 4), maps) if function is pool_features else (maps,)
    assert torch.autograd.gradcheck(function, arguments)
    xy = (random_maps(2, 2, 2) / 1.5 - 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda xy: gaussian_maps(xy, 3, 4, 0.3), (xy,))


def test_one_far_logit_does_not_overflow() -> None:
    logits = torch.full((1, 4, 4), -1e4)
    logits[0, 1, 3] = 1e4
    for expectation in (marginal_expectation, joint_expectation):
        torch.testing.assert_close(expectation(logits), torch.tensor([[0.75, -0.25]]))


@pytest.mark.parametrize("expectation", [*EXPECTATIONS, mean_intensity])
def test_a_map_without_its_keypoint_axis_is_refused(expectation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"must be \(\.\.\., K, H, W\), not \(4, 5\)"):
        expectation(torch.zeros(4, 5))


def test_other_shapes_and_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match=r"xy must be \(\.\.\., K, 2\), not \(2,\)"):
        gaussian_maps(torch.zeros(2), 4, 4, 0.1)
    with pytest.raises(ValueError, match=r"xy must be \(\.\.\., K, 2\), not \(3, 3\)"):
        gaussian_maps(torch.zeros(3, 3), 4, 4, 0.1)
    with pytest.raises(ValueError, match="std must be positive"):
        gaussian_maps(torch.zeros(3, 2), 4, 4, 0.0)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        thermometer(torch.zeros(3), 0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        cell_centres(0)
    with pytest.raises(ValueError, match="differ in H x W"):
        pool_features(torch.zeros(3, 4, 5), torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"features must be \(\.\.\., D, H, W\)"):
        pool_features(torch.zeros(4, 5), torch.zeros(2, 4, 5))


def test_keypoints_know_their_sizes_and_are_indexed_by_batch() -> None:
    keypoints = Keypoints(torch.rand(5, 4, 3, 2), torch.ones(5, 4, 3), torch.rand(5, 4, 3, 7))
    assert (keypoints.num_keypoints, keypoints.feature_dim) == (3, 7)
    part = keypoints[1:3, 0]
    assert torch.equal(part.xy, keypoints.xy[1:3, 0])
    assert torch.equal(part.presence, keypoints.presence[1:3, 0])
    assert torch.equal(part.features, keypoints.features[1:3, 0])


def test_keypoints_flatten_one_after_the_other() -> None:
    keypoints = Keypoints(
        xy=torch.tensor([[[1.0, 2.0], [5.0, 6.0]]]),
        presence=torch.tensor([[3.0, 7.0]]),
        features=torch.tensor([[[4.0], [8.0]]]),
    )
    assert keypoints.flatten().tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert keypoints.numpy().flatten().tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_keypoints_become_float32_arrays() -> None:
    xy = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    arrays = Keypoints(xy, torch.ones(3, dtype=torch.float64), torch.zeros(3, 0)).numpy()
    for array in (arrays.xy, arrays.presence, arrays.features):
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
    assert arrays.numpy().features.shape == (3, 0)


def test_keypoints_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="xy must be"):
        Keypoints(torch.zeros(3, 3), torch.ones(3), torch.zeros(3, 0))
    with pytest.raises(ValueError, match="xy must be"):
        Keypoints(torch.zeros(2), torch.ones(()), torch.zeros(0))
    with pytest.raises(ValueError, match="presence must be"):
        Keypoints(torch.zeros(4, 3, 2), torch.ones(3), torch.zeros(4, 3, 0))
    with pytest.raises(ValueError, match="features must be"):
        Keypoints(torch.zeros(4, 3, 2), torch.ones(4, 3), torch.zeros(4, 0))
