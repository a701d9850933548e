"""The rule-based demonstrator (KeyIn section 7): it pushes the puck around the wall in six straight pushes.

For each push the hand is lifted, goes behind the puck, comes down and pushes until the puck is at the subgoal; then it rests
for an action, where that is needed to make the number of actions even. Every second state is kept, and the two actions
between are averaged: so a push ends with a kept frame, which is a keyframe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kpagent.envs.pushing.scene import HAND_RADIUS, PUCK_RADIUS, Scene, draw_scene, path_length
from kpagent.envs.pushing.simulation import FORCE, HAND_DRAG, HAND_MASS, PUCK_DRAG, PUCK_MASS, SECONDS, Simulation
from kpagent.envs.pushing.subgoals import BEHIND, Route, draw_route

KEPT = 2
"""Actions from one kept frame to the next."""

_TOUCHING = HAND_RADIUS + PUCK_RADIUS
_ABOVE, _BELOW = 0.15, 0.06
_NEAR, _ARRIVED = 0.02, 0.01
# How far one action pushes the puck at full force, in units.
_REACH = 0.14
# Of the offset e-fold grown over one radius, what must be made good in one.
_SWERVE = math.e / (math.e - 1)
_REST = np.zeros(3)


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What a demonstrator did, in kept frames.

    Attributes:
        scene: the task.
        route: the subgoals, and the side of the wall that the puck passes by.
        states: (T, S) of `Simulation`, to be set in the scene; `simulation.places` reads hand and puck from them.
        actions: (T, 3) float32, from each kept frame to the next, averaged; the last is zero.
        keyframes: (T,) bool, true in the six frames in which a push is finished.
    """

    scene: Scene
    route: Route
    states: np.ndarray
    actions: np.ndarray
    keyframes: np.ndarray


def demonstrate(
    simulation: Simulation, generator: np.random.Generator, *, frames: int, shortest: int, longest: int, tolerance: float
) -> Demonstration | None:
    """Draw a task and solve it.

    Args:
        simulation: of which nothing is left as it was.
        generator: what task and subgoals are drawn with.
        frames: T frames that are kept; where the last push is finished before, the hand rests.
        shortest: kept frames that each push must take at least.
        longest: kept frames that each push may take at most.
        tolerance: how far the puck may be from the goal at the end, in units of the table.

    Returns:
        The demonstration; or None where it failed: no way around the wall was found, a push was too short or too long, all
        of them together were, or the puck is not at the goal.
    """
    scene = draw_scene(generator)
    route = draw_route(scene, generator)
    if route is None:
        return None
    simulation.begin(scene)
    play = _Play(simulation)
    ends = []
    for subgoal in route.subgoals:
        begun = play.length
        if not _push(play, subgoal, begun + KEPT * longest):
            return None
        play.act(_REST, times=-play.length % KEPT)
        ends.append(play.length // KEPT)
        if play.length - begun < KEPT * shortest or ends[-1] >= frames:
            return None
    if path_length(scene, simulation.puck, scene.goal) > tolerance:
        return None
    play.act(_REST, times=KEPT * (frames - 1) - play.length)
    keyframes = np.zeros(frames, bool)
    keyframes[ends] = True
    actions = np.zeros((frames, 3), np.float32)
    actions[:-1] = np.reshape(play.actions, (frames - 1, KEPT, 3)).mean(axis=1)
    return Demonstration(scene, route, np.stack(play.states[::KEPT]), actions, keyframes)


class _Play:
    """All that was done, and what came of it."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.actions: list[np.ndarray] = []
        self.states = [simulation.get_state()]

    @property
    def length(self) -> int:
        return len(self.actions)

    def act(self, action: np.ndarray, times: int = 1) -> None:
        for _ in range(times):
            self.simulation.step(action)
            self.actions.append(action)
            self.states.append(self.simulation.get_state())


def _push(play: _Play, subgoal: np.ndarray, limit: int) -> bool:
    """Push the puck to `subgoal`; whether that was done when `play` has `limit` actions."""
    simulation = play.simulation
    heading = _unit(subgoal - simulation.puck)
    behind = simulation.puck - BEHIND * heading
    while simulation.hand[2] < _ABOVE and play.length < limit:
        play.act(np.array([0.0, 0.0, 1.0]))
    while np.linalg.norm(simulation.hand[:2] - behind) > _NEAR and play.length < limit:
        play.act(_towards(simulation, behind, upwards=0.0, touching=False))
    while simulation.hand[2] > _BELOW and play.length < limit:
        play.act(_towards(simulation, behind, upwards=-1.0, touching=False))
    while True:
        way = subgoal - simulation.puck
        if np.linalg.norm(way) < _ARRIVED or way @ heading < 0:
            return True
        if play.length >= limit:
            return False
        play.act(_steer(simulation, way))


def _steer(simulation: Simulation, way: np.ndarray) -> np.ndarray:
    """The action (3,) that pushes the puck along `way`, as far as one action reaches.

    A puck that is pushed at one point swerves away from the hand: on a way as long as the two radii together, the hand's
    offset from the line grows e-fold. The hand moves sideways by so much that nothing of it is left when the action ends.
    """
    ahead = _unit(way)
    aside = np.array([-ahead[1], ahead[0]])
    gap = simulation.puck - simulation.hand[:2]
    touching = bool(np.linalg.norm(gap) < _TOUCHING + _NEAR)
    forward = min(float(np.linalg.norm(way)) + float(gap @ ahead) - _TOUCHING, _REACH)
    sideways = float(gap @ aside) * (_SWERVE if touching else 1.0)
    return _towards(simulation, simulation.hand[:2] + forward * ahead + sideways * aside, upwards=0.0, touching=touching)


def _towards(simulation: Simulation, target: np.ndarray, *, upwards: float, touching: bool) -> np.ndarray:
    """The action (3,) that brings the hand to `target` by its end, or as far as its force goes.

    Force against friction that grows with speed: place and speed after an action are linear in the action.
    """
    drag = HAND_DRAG + PUCK_DRAG * touching
    lag = (HAND_MASS + PUCK_MASS * touching) / drag
    settled = lag * (1 - math.exp(-SECONDS / lag))
    missing = target - simulation.hand[:2] - simulation.hand_velocity[:2] * settled
    action = missing / (FORCE / drag * (SECONDS - settled))
    return np.append(action / max(float(np.linalg.norm(action)), 1.0), upwards)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
