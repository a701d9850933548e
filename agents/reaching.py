"""One episode of a `SubgoalPlanner`, step by step, and its pictures in the style of KeyIn's Figures 8 and 11."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.agents.subgoal_planner import Pursuit, SubgoalPlanner
from kpagent.drawing import contact_sheet, default_scale, draw_keypoints
from kpagent.errors import UsageError

GHOST = 0.35
"""How much of the goal image shows through a frame."""

_GAP = 4


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame of an episode, and what is done in it; a scene of `kpagent.envs.recording.record`.

    Attributes:
        number: actions before it.
        frame: (H, W, 3) uint8.
        goal: (H, W, 3) uint8.
        first: (H, W, 3) uint8, the frame at the start.
        pursuit: the episode.
        current: number of the goal that is pursued; the last is the goal itself.
        seen: (K, 2) what the planner sees, as coordinates.
        reached: whether it sees that the goal is reached.
        info: of the environment.
    """

    number: int
    frame: np.ndarray
    goal: np.ndarray
    first: np.ndarray
    pursuit: Pursuit
    current: int
    seen: np.ndarray
    reached: bool
    info: dict[str, Any]

    @property
    def title(self) -> str:
        """Where it is on its way."""
        goals = len(self.pursuit.servo.goals)
        return "goal" if self.current == goals - 1 else f"subgoal {self.current + 1} of {goals - 1}"

    @property
    def note(self) -> str:
        """The number of actions."""
        return f"action {self.number}{', reached' if self.reached else ''}"

    def draw(self, scale: int) -> np.ndarray:
        """The frame, through which the goal shows, and beside it what is pursued."""
        shown = draw_keypoints(blend(self.frame, self.goal), self.seen, scale=scale)
        return contact_sheet([shown, subgoal_picture(self, self.current, scale)], columns=2, gap=_GAP)


def reach(
    planner: SubgoalPlanner,
    env: gym.Env[Any, Any],
    goal: np.ndarray | None = None,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
) -> Iterator[Moment]:
    """Play one episode until the goal is reached, the planner's actions are spent, or the episode ends.

    Args:
        planner: of this environment.
        env: to act in.
        goal: image of the goal; what `env.unwrapped.goal_image()` gives after the reset, if not given.
        seed: of the reset.
        options: likewise.

    Yields:
        The first frame, and that after each action, before the next is taken.

    Raises:
        UsageError: no goal is given and the environment has none, or one that the planner does not take.
    """
    frame, info = env.reset(seed=seed, options=options)
    if goal is None:
        painted = getattr(env.unwrapped, "goal_image", None)
        if painted is None:
            raise UsageError(f"{env.unwrapped} has no goal image of its own; give one")
        goal = painted()
    planner.set_goal(goal)
    first, state, number, ended = frame, None, 0, False
    while True:
        action, state = planner.predict(frame, state)
        pursuit: Pursuit = state[0]
        seen = planner.world.see(frame).reshape(-1, 2).cpu().numpy()
        yield Moment(number, frame, goal, first, pursuit, pursuit.servo.current, seen, pursuit.arrived, info)
        if pursuit.over or ended:
            return
        frame, _, terminated, truncated, info = env.step(action)
        number, ended = number + 1, terminated or truncated


def draw_plan(moments: Sequence[Moment]) -> np.ndarray:
    """The planned subgoals in a row, and below each the frame in which its pursuit ended (Figure 8).

    Args:
        moments: of a whole episode.

    Returns:
        (H', W', 3) uint8: start, subgoals and goal; the frames below have the goal shown through them. A subgoal without a
        frame below it was reached already when its turn came.
    """
    start, last = moments[0], moments[-1]
    scale = max(1, default_scale(*start.frame.shape[:2]) // 4)
    goals = range(len(start.pursuit.servo.goals))
    ends = {moment.current: moment for moment in moments}
    above = [_enlarged(start.frame, scale), *(subgoal_picture(start, number, scale) for number in goals)]
    below = [_enlarged(blend(start.frame, start.goal), scale)]
    # A moment belongs to the goal that is pursued from there on; the frame after its last action is the next one.
    numbers = {moment.number: moment for moment in moments}
    for number in goals:
        end = numbers.get(ends[number].number + 1, last) if number in ends else None
        below.append(np.zeros_like(above[0]) if end is None else _enlarged(blend(end.frame, end.goal), scale))
    return contact_sheet([*above, *below], columns=len(above), gap=_GAP)


def subgoal_picture(moment: Moment, number: int, scale: int) -> np.ndarray:
    """One goal of an episode: as a model painted it, or where the planner is to see things, on the frame at the start.

    Args:
        moment: of the episode.
        number: of the goal.
        scale: of enlargement, for a frame of the environment's size.
    """
    goals, pictures = moment.pursuit.servo.goals, moment.pursuit.subgoals.pictures
    places = goals[number].reshape(-1, 2).cpu().numpy()
    if number == len(goals) - 1:
        return draw_keypoints(moment.goal, places, scale=scale)
    if pictures is not None and pictures.shape[1:] == moment.frame.shape:
        return draw_keypoints(pictures[number], places, scale=scale)
    return draw_keypoints(moment.first, places, scale=scale)


def blend(frame: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """A frame through which the goal shows, (H, W, 3) uint8."""
    return np.rint((1 - GHOST) * frame + GHOST * goal).astype(np.uint8)


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)
