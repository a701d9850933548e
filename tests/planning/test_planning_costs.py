from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kpagent.envs.pushing.scene import draw_scene
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.planning.costs import ColorDistance, EmbeddingDistance, KeypointDistance, color_center

PUCK = (179, 89, 134)


def slow_center(frame: np.ndarray, color: tuple[int, int, int], tolerance: float) -> np.ndarray:
    height, width = frame.shape[:2]
    pixels = [
        ((2 * x + 1) / width - 1, (2 * y + 1) / height - 1)
        for y in range(height)
        for x in range(width)
        if np.linalg.norm(frame[y, x].astype(float) - color) <= tolerance
    ]
    return np.median(pixels, axis=0) if pixels else np.full(2, np.nan)


def spots(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (*shape, 3))
    near = random.random(shape) < 0.2
    return np.where(near[..., None], np.clip(np.array(PUCK) + random.integers(-9, 10, (*shape, 3)), 0, 255), frames).astype(
        np.uint8
    )


def test_the_centre_of_a_colour_is_the_median_of_its_pixels() -> None:
    frames = spots(0, (2, 3, 9, 14))
    frames[1, 2] = 0
    found = color_center(frames, PUCK, 12.0)
    assert found.shape == (2, 3, 2)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], slow_center(frames[index], PUCK, 12.0))
    assert np.isnan(found[1, 2]).all()
    np.testing.assert_array_equal(color_center(torch.from_numpy(frames), PUCK, 12.0), found)


def test_the_distance_of_a_colour_is_that_of_its_places() -> None:
    frames = np.zeros((2, 4, 20, 20, 3), np.uint8)
    goal = np.zeros((40, 40, 3), np.uint8)
    goal[10:12, 10:12] = PUCK
    frames[..., 5, 5, :] = PUCK
    frames[0, 1] = np.roll(frames[0, 0], 8, axis=1)
    frames[1, 3] = 0
    expected = np.zeros((2, 4))
    expected[0, 1], expected[1, 3] = 0.8, np.inf
    near = ColorDistance(PUCK, tolerance=0)
    np.testing.assert_allclose(near(frames, goal), expected, atol=1e-12)
    assert np.isinf(near(frames, np.zeros_like(goal))).all()
    assert near(frames[0, 1], goal).shape == ()


def test_the_pushing_puck_is_where_it_is_seen() -> None:
    pytest.importorskip("mujoco")
    from kpagent.envs.pushing.simulation import PUCK_COLOR, Simulation, seen

    simulation = Simulation(draw_scene(np.random.default_rng(0)))
    for seed in range(5):
        simulation.begin(draw_scene(np.random.default_rng(seed)))
        place = seen(simulation.hand, simulation.puck)[0]
        found = color_center(simulation.render(64, show_goal=False), PUCK_COLOR, ColorDistance(PUCK_COLOR).tolerance)
        np.testing.assert_allclose(found, place, atol=2 / 64)
    simulation.close()


def keypoints(xy: Any, presence: Any) -> Keypoints:
    xy, presence = np.array(xy, np.float32), np.array(presence, np.float32)
    return Keypoints(xy, presence, np.zeros((*presence.shape, 0), np.float32))


def test_keypoints_count_by_where_they_are_and_whether_they_are() -> None:
    goal = keypoints([[0, 0], [0.5, 0.5], [0, 0]], [1, 1, 0])
    seen = keypoints(
        [
            [[0, 0], [0.5, 0.5], [0.9, 0.9]],
            [[0.3, 0.4], [0.5, 0.5], [0, 0]],
            [[0, 0], [0.5, 0.5], [0, 0]],
            [[0, 0], [0.5, 0.5], [0, 0]],
        ],
        [[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0.5]],
    )
    np.testing.assert_allclose(KeypointDistance()(seen, goal), [0, 0.5 / 3, 1 / 3, 0.5 / 3], atol=1e-6)
    np.testing.assert_allclose(KeypointDistance(missing=0.2)(seen, goal)[2:], [0.2 / 3, 0.1 / 3], atol=1e-6)
    weighted = KeypointDistance(weights=(3.0, 1.0, 0.0))
    np.testing.assert_allclose(weighted(seen, goal), [0, 0.375, 0.25, 0], atol=1e-6)
    assert weighted(seen[2], goal).shape == ()
    unsure = keypoints([[[0, 0], [0, 1]], [[0.6, 0.8], [0, 1]]], [[0.4, 0.9], [0.7, 0.9]])
    np.testing.assert_allclose(KeypointDistance()(unsure, unsure[0]), [0, (0.4 * 1 + 0.3) / 2], atol=1e-6)
    np.testing.assert_allclose(KeypointDistance()(unsure, unsure[1]), [(0.4 * 1 + 0.3) / 2, 0], atol=1e-6)
    tensors = Keypoints(*(torch.from_numpy(one) for one in (seen.xy, seen.presence, seen.features)))
    np.testing.assert_array_equal(KeypointDistance()(tensors, goal), KeypointDistance()(seen, goal))


def test_an_embedding_gives_its_euclidean_distance() -> None:
    numbers = torch.arange(24.0).view(2, 3, 4)
    np.testing.assert_allclose(EmbeddingDistance()(numbers, numbers[0, 0]), [[0, 8, 16], [24, 32, 40]])
    doubled = EmbeddingDistance(lambda x: 2 * np.asarray(x))
    np.testing.assert_allclose(doubled(numbers.numpy(), numbers[0, 0].numpy()), [[0, 16, 32], [48, 64, 80]])


def test_mistakes_are_named() -> None:
    for refused, message in (
        (lambda: KeypointDistance(missing=-1), "missing must be at least 0; got -1"),
        (lambda: KeypointDistance(weights=(0.0, 0.0)), "weights must be at least 0, and some above"),
        (lambda: ColorDistance((300, 0, 0)), r"color must be three numbers from 0 to 255; got \(300, 0, 0\)"),
        (lambda: ColorDistance(PUCK, tolerance=-1), "tolerance must be at least 0 and below 442; got -1"),
    ):
        with pytest.raises(UsageError, match=message):
            refused()
    two, three = keypoints([[0, 0]] * 2, [1, 1]), keypoints([[0, 0]] * 3, [1, 1, 1])
    with pytest.raises(ValueError, match=r"keypoints differ: 2 are seen, the goal is \(3, 2\)"):
        KeypointDistance()(two, three)
    with pytest.raises(ValueError, match="3 weights"):
        KeypointDistance(weights=(1.0, 1.0, 1.0))(two, two)
    with pytest.raises(TypeError, match="frames must be uint8, not float64"):
        color_center(np.zeros((4, 4, 3)), PUCK, 1.0)
    with pytest.raises(ValueError, match=r"frames must be \(\.\.\., H, W, 3\), not \(4, 4\)"):
        color_center(np.zeros((4, 4), np.uint8), PUCK, 1.0)
    with pytest.raises(ValueError, match=r"the goal's embedding must be \(4,\), not \(3,\)"):
        EmbeddingDistance()(torch.zeros(2, 4), torch.zeros(3))
