from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.envs.pushing.scene import Scene, draw_scene, path_length, wall_distance
from kpagent.envs.pushing.subgoals import draw_route

coordinates = st.tuples(st.floats(-1, 1), st.floats(-1, 1))


def scenes(count: int) -> list[Scene]:
    return [draw_scene(np.random.default_rng(seed)) for seed in range(count)]


def test_tasks_are_as_the_paper_varies_them() -> None:
    drawn = scenes(1000)
    wall = np.linalg.norm([scene.wall for scene in drawn], axis=-1)
    assert (wall.min() >= 0.05, wall.max() <= 0.5) == (True, True)
    local = np.stack([scene.from_wall((scene.puck, scene.goal)) for scene in drawn])
    assert np.abs(local[..., 1]).min() >= 0.2 - 1e-9
    assert np.abs(local[..., 1]).max() <= 1 + 1e-9
    assert (local[:, 0, 1] > 0).all()
    assert (local[:, 1, 1] < 0).all()
    assert np.abs([(scene.puck, scene.goal) for scene in drawn]).max() <= 0.9
    # The hand in the middle of the table touches neither.
    assert np.linalg.norm([scene.puck for scene in drawn], axis=-1).min() >= 0.15
    assert min(float(wall_distance(scene, (0, 0))) for scene in drawn) >= 0.03
    # Table 2 has 1.32 ± 0.06 for 120 tasks.
    lengths = np.array([float(path_length(scene, scene.puck, scene.goal)) for scene in drawn])
    assert lengths.mean() == pytest.approx(1.32, abs=0.03)
    assert 1.96 * lengths.std() / 120**0.5 == pytest.approx(0.06, abs=0.01)


@given(st.integers(0, 1000), st.lists(coordinates, min_size=1, max_size=4))
def test_places_seen_from_the_wall_and_back(seed: int, places: list[tuple[float, float]]) -> None:
    scene = scenes(1)[0] if seed == 0 else draw_scene(np.random.default_rng(seed))
    np.testing.assert_allclose(scene.on_table(scene.from_wall(places)), places, atol=1e-12)
    np.testing.assert_allclose(scene.on_table((0.4, 0.0)), np.array(scene.wall) + 0.4 * scene.along)


@given(st.integers(0, 1000), coordinates)
def test_distance_from_the_wall_is_that_from_its_nearest_point(seed: int, place: tuple[float, float]) -> None:
    scene = draw_scene(np.random.default_rng(seed))
    along, across = np.meshgrid(np.linspace(-0.4, 0.4, 201), np.linspace(-0.02, 0.02, 11))
    points = scene.on_table(np.stack([along, across], axis=-1).reshape(-1, 2))
    slow = np.linalg.norm(points - place, axis=-1).min()
    assert float(wall_distance(scene, place)) == pytest.approx(slow, abs=0.005)


@given(st.integers(0, 1000), coordinates, coordinates)
def test_the_shortest_path_agrees_with_a_search(seed: int, start: tuple[float, float], goal: tuple[float, float]) -> None:
    """A path from one side of the wall's line to the other crosses it somewhere beyond the ends: the best such place."""
    scene = draw_scene(np.random.default_rng(seed))
    a, b = np.array(start) - scene.wall, np.array(goal) - scene.wall
    if (a @ scene.across) * (b @ scene.across) < 0:
        out = np.arange(0.52, 6, 0.001)
        crossings = np.concatenate([-out, out])[:, None] * scene.along
        expected = (np.linalg.norm(crossings - a, axis=-1) + np.linalg.norm(crossings - b, axis=-1)).min()
    else:
        expected = np.linalg.norm(a - b)
    found = path_length(scene, start, goal)
    assert float(found) == pytest.approx(expected, abs=0.002)
    np.testing.assert_allclose(path_length(scene, goal, start), found)
    np.testing.assert_allclose(path_length(scene, [start, goal], [goal, goal]), [float(found), 0.0], atol=1e-12)


def test_routes_lead_around_both_ends_in_six_pushes() -> None:
    routes = [(scene, draw_route(scene, np.random.default_rng(index))) for index, scene in enumerate(scenes(60))]
    found = [(scene, route) for scene, route in routes if route is not None]
    assert len(found) > 50
    assert 0.3 < np.mean([route.side for _, route in found]) < 0.7
    for scene, route in found:
        stops = np.array([scene.puck, *route.subgoals])
        np.testing.assert_allclose(stops[-1], scene.goal)
        lengths = np.linalg.norm(np.diff(stops, axis=0), axis=-1)
        assert (lengths.min() >= 0.4 - 1e-9, lengths.max() <= 0.6 + 1e-9) == (True, True)
        assert np.abs(stops[1:-1]).max() <= 0.8
        local = scene.from_wall(stops)
        assert (local[:3, 1] > 0.19).all()
        assert (local[4:, 1] < -0.19).all()
        assert local[3, 1] == pytest.approx(0, abs=1e-9)
        assert 0.6 <= local[3, 0] * (2 * route.side - 1) <= 0.9
        way = np.concatenate([np.linspace(*pair, 50) for pair in itertools.pairwise(stops)])
        assert wall_distance(scene, way).min() > 0.14
