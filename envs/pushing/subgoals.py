"""Where a demonstrator pushes the puck to: six places that lead around the wall to the goal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpagent.envs.pushing.scene import HAND_RADIUS, PUCK_RADIUS, TABLE, Scene, wall_distance

PUSHES = 6
BEHIND = 0.22
"""Where a push begins, from the middle of the puck: the hand comes down there."""
SHORTEST_PUSH, LONGEST_PUSH = 0.4, 0.6
"""Bounds of the length of a push."""

_INSIDE = 0.8
_OFF_THE_LINE = 0.2
_SPACE = 0.03
_PASSING_TRIES = 8
_CANDIDATES = 1024
# Points at which a way is looked at.
_PART = np.linspace(0, 1, 9)[:, None]


@dataclass(frozen=True)
class Route:
    """Places that the puck is pushed to, one after the other."""

    subgoals: np.ndarray
    """(6, 2); the third is beside the wall, on its line, and the last is the goal."""
    side: int
    """Of the wall that it passes by: 0 for the end towards minus `Scene.along`, 1 for the other."""


def draw_route(scene: Scene, generator: np.random.Generator) -> Route | None:
    """A way around the wall at random, by either of its ends.

    The puck passes the wall's line 0.6 to 0.9 from its middle. Two subgoals lie before it and two behind, each at least 0.2
    from the line, all of them at most 0.8 from the middle of the table in x and y; each push is `SHORTEST_PUSH` to
    `LONGEST_PUSH` long. On none of the ways does the puck touch the wall, nor the hand that follows it.

    Args:
        scene: puck, goal and wall.
        generator: what it is drawn with.

    Returns:
        The way, or None where none was found in a few tries.
    """
    for _ in range(_PASSING_TRIES):
        side = int(generator.integers(2))
        passing = scene.on_table(((2 * side - 1) * generator.uniform(0.6, 0.9), 0.0))
        before = _draw_pair(scene, np.array(scene.puck), passing, 1, generator)
        behind = _draw_pair(scene, passing, np.array(scene.goal), -1, generator)
        if np.abs(passing).max() <= _INSIDE and before is not None and behind is not None:
            return Route(np.stack([*before, passing, *behind, np.array(scene.goal)]), side)
    return None


def _draw_pair(
    scene: Scene, start: np.ndarray, end: np.ndarray, sign: int, generator: np.random.Generator
) -> np.ndarray | None:
    """Two places (2, 2) on the way from `start` to `end`, on the side of the wall that `sign` tells."""
    length = np.sqrt(generator.uniform(SHORTEST_PUSH**2, LONGEST_PUSH**2, size=(2, _CANDIDATES, 1)))
    angle = generator.uniform(0, 2 * np.pi, size=(2, _CANDIDATES, 1))
    steps = length * np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    places = np.stack([start + steps[0], start + steps[0] + steps[1]], axis=1)
    last = np.linalg.norm(end - places[:, 1], axis=-1)
    fits = (last >= SHORTEST_PUSH) & (last <= LONGEST_PUSH) & (np.abs(places).max(axis=(1, 2)) <= _INSIDE)
    fits &= (sign * scene.from_wall(places)[..., 1]).min(axis=1) >= _OFF_THE_LINE
    for pair in places[fits]:
        if _is_free(scene, np.stack([start, pair[0], pair[1], end])):
            return pair
    return None


def _is_free(scene: Scene, stops: np.ndarray) -> bool:
    """Whether puck and hand get from stop to stop (N, 2) without the wall."""
    ways = np.diff(stops, axis=0)
    headings = ways / np.linalg.norm(ways, axis=-1, keepdims=True)
    puck = stops[:-1, None] + ways[:, None] * _PART
    hand = stops[:-1, None] - headings[:, None] * (BEHIND * _PART)
    puck_free = wall_distance(scene, puck).min() >= PUCK_RADIUS + _SPACE
    hand_free = wall_distance(scene, hand).min() >= HAND_RADIUS + _SPACE
    return bool(puck_free and hand_free and np.abs(hand).max() <= TABLE - HAND_RADIUS - _SPACE)
