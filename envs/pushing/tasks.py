"""Tasks to test a planner on: scenes that a demonstrator has solved, with a stated share whose way around the wall is long.

Drawn as the paper draws them, most tasks can be solved without subgoals, by pushing the puck along the wall until it slips
around the end. What tells planners apart is how much longer the way around the wall is than the straight one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpagent.envs.pushing.demonstrations import DemonstrationConfig
from kpagent.envs.pushing.demonstrator import Demonstration, demonstrate
from kpagent.envs.pushing.scene import Scene, draw_scene, path_length
from kpagent.envs.pushing.simulation import Simulation, places
from kpagent.errors import UsageError

HARD_DETOUR = 0.35
"""A task whose detour is longer is hard, in units of the table."""
# Where `Demonstrations` has the number of an attempt, which never comes so far: tasks would else be what models learn from.
_TASKS = 1_000_000


@dataclass(frozen=True, eq=False)
class PushingTask:
    """One task, and how a demonstrator solved it.

    Attributes:
        number: of the draw; with the seed it decides everything.
        scene: puck, goal and wall.
        subgoals: (6, 2) places of the puck on the table at the ends of the demonstrator's pushes; the last is at the goal.
    """

    number: int
    scene: Scene
    subgoals: np.ndarray

    @property
    def detour(self) -> float:
        """As of the function `detour`."""
        return detour(self.scene)

    @property
    def hard(self) -> bool:
        """Whether the detour is longer than `HARD_DETOUR`."""
        return self.detour > HARD_DETOUR


def detour(scene: Scene) -> float:
    """By how much the shortest way of the puck around the wall to its goal is longer than the straight one, 0 or more.

    Both lengths are of the middle of the puck, in units of the table; `path_length` says how the wall counts.
    """
    straight = float(np.linalg.norm(np.subtract(scene.puck, scene.goal)))
    return max(float(path_length(scene, scene.puck, scene.goal)) - straight, 0.0)


def draw_tasks(count: int, *, seed: int, hard_share: float = 0.5) -> list[PushingTask]:
    """Tasks that a demonstrator has solved.

    Scenes are drawn one after the other. One is taken if there is still room in its group, that of the hard or that of the
    ordinary ones, and if the demonstrator solves it. Which tasks of a group come first does not hang on how many are wanted.

    Args:
        count: tasks.
        seed: with the number of a draw, it decides everything; no demonstration of any seed is drawn from the same numbers.
        hard_share: share of hard tasks, rounded to whole tasks.

    Returns:
        The tasks, by number.

    Raises:
        UsageError: a count below 1, a seed below 0, a share outside [0, 1], or MuJoCo is not installed.
    """
    if count < 1 or seed < 0 or not 0 <= hard_share <= 1:
        raise UsageError(
            "tasks need a count of at least 1, a seed of at least 0 and a share from 0 to 1;"
            f" got {count}, {seed} and {hard_share}"
        )
    hard = round(hard_share * count)
    room = {True: hard, False: count - hard}
    simulation, config = Simulation(draw_scene(np.random.default_rng(0))), DemonstrationConfig()
    found: list[PushingTask] = []
    for number in itertools.count():
        if not any(room.values()):
            return found
        scene = draw_scene(np.random.default_rng((seed, number, _TASKS)))
        group = detour(scene) > HARD_DETOUR
        # The demonstrator draws the same scene from the same numbers.
        solved = _demonstrate(simulation, (seed, number, _TASKS), config) if room[group] else None
        if solved is not None:
            room[group] -= 1
            found.append(PushingTask(number, solved.scene, places(solved.states[solved.keyframes])[1]))
    raise AssertionError("unreachable")


def _demonstrate(simulation: Simulation, seed: Any, config: DemonstrationConfig) -> Demonstration | None:
    return demonstrate(
        simulation,
        np.random.default_rng(seed),
        frames=config.frames,
        shortest=config.shortest,
        longest=config.longest,
        tolerance=config.tolerance,
    )
