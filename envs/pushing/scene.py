"""What stands on the table: its measures, how a task is drawn, and how far a puck is from its goal around the wall.

Lengths are in units of the paper's Table 2: the table reaches from -1.2 to 1.2 along x (to the right of the picture) and y
(up in the picture).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TABLE = 1.2
"""Half the width of the table, which has a border."""
HAND_RADIUS = 0.03
PUCK_RADIUS = 0.12
WALL_HALF_LENGTH = 0.4
WALL_HALF_THICKNESS = 0.02
AROUND = WALL_HALF_LENGTH + PUCK_RADIUS
"""From the middle of the wall to where the shortest path turns, on the wall's line."""
SUCCESS = 0.3
"""A puck that is nearer than this to its goal at the end is there."""

_TRIES = 10_000
_SPACE = 0.02


@dataclass(frozen=True)
class Scene:
    """A task: where the puck begins, where it is to go, and what stands between."""

    puck: tuple[float, float]
    """Place (x, y) of the puck at the beginning."""
    goal: tuple[float, float]
    """Place (x, y) where it is to be."""
    wall: tuple[float, float]
    """Place (x, y) of the middle of the wall."""
    wall_angle: float
    """Angle of the wall's line against the x axis, in radians."""

    @property
    def along(self) -> np.ndarray:
        """(2,) unit vector along the wall."""
        return np.array([np.cos(self.wall_angle), np.sin(self.wall_angle)])

    @property
    def across(self) -> np.ndarray:
        """(2,) unit vector across the wall, a quarter turn to the left of `along`."""
        return np.array([-np.sin(self.wall_angle), np.cos(self.wall_angle)])

    def from_wall(self, places: Any) -> np.ndarray:
        """(..., 2) places on the table, as (along, across) from the middle of the wall."""
        return (np.asarray(places, float) - self.wall) @ np.stack([self.along, self.across], axis=-1)

    def on_table(self, places: Any) -> np.ndarray:
        """(..., 2) places on the table; the inverse of `from_wall`."""
        return np.asarray(places, float) @ np.stack([self.along, self.across]) + self.wall


def draw_scene(generator: np.random.Generator) -> Scene:
    """A task at random, as the paper varies them: start, goal and wall.

    The middle of the wall is 0.05 to 0.5 from the middle of the table, in any direction, and the wall lies at any angle.
    Puck and goal lie on opposite sides of its line, 0.2 to 1.0 from it, anywhere along it where they are within 0.9 of the
    table's middle in x and y. Neither wall nor puck touches the hand, which begins in the middle of the table. The mean
    `path_length` of 120 tasks is then 1.33 ± 0.06, where the paper has 1.32 ± 0.06.

    Args:
        generator: what it is drawn with.
    """
    for _ in range(_TRIES):
        direction, angle = generator.uniform(0, 2 * np.pi, size=2)
        wall = generator.uniform(0.05, 0.5) * np.array([np.cos(direction), np.sin(direction)])
        scene = Scene((0.0, 0.0), (0.0, 0.0), (float(wall[0]), float(wall[1])), float(angle))
        local = np.stack([generator.uniform(-TABLE, TABLE, size=2), generator.uniform(0.2, 1.0, size=2) * (1, -1)], axis=-1)
        puck, goal = scene.on_table(local)
        if np.abs((puck, goal)).max() > 0.9:
            continue
        if np.hypot(*puck) < PUCK_RADIUS + HAND_RADIUS + _SPACE or wall_distance(scene, np.zeros(2)) < HAND_RADIUS + _SPACE:
            continue
        return Scene((float(puck[0]), float(puck[1])), (float(goal[0]), float(goal[1])), scene.wall, scene.wall_angle)
    raise RuntimeError(f"no scene in {_TRIES} tries")


def wall_distance(scene: Scene, places: Any) -> np.ndarray:
    """How far places are from the nearest point of the wall.

    Args:
        scene: where the wall stands.
        places: (..., 2).

    Returns:
        (...) distances; 0 inside the wall.
    """
    outside = np.abs(scene.from_wall(places)) - (WALL_HALF_LENGTH, WALL_HALF_THICKNESS)
    return np.asarray(np.linalg.norm(np.maximum(outside, 0), axis=-1))


def path_length(scene: Scene, start: Any, goal: Any) -> np.ndarray:
    """Length of the shortest path of a puck around the wall, the position error of KeyIn Table 2.

    The wall counts as a line from -`AROUND` to `AROUND`, which the middle of a puck cannot cross. Where the straight way
    crosses it, the path goes by that end which makes it shorter.

    Args:
        scene: where the wall stands.
        start: (..., 2) places.
        goal: (..., 2) places.

    Returns:
        (...) lengths.
    """
    a, b = scene.from_wall(start), scene.from_wall(goal)
    straight = np.linalg.norm(a - b, axis=-1)
    opposite = a[..., 1] * b[..., 1] < 0
    part = np.abs(a[..., 1]) / np.maximum(np.abs(a[..., 1]) + np.abs(b[..., 1]), 1e-12)
    crossing = a[..., 0] + part * (b[..., 0] - a[..., 0])
    ends = np.array([[-AROUND, 0.0], [AROUND, 0.0]])
    legs = (np.linalg.norm(place[..., None, :] - ends, axis=-1) for place in (a, b))
    around = np.minimum.reduce(sum(legs), axis=-1)
    return np.asarray(np.where(opposite & (np.abs(crossing) < AROUND), around, straight))
