"""`kpagent plan reach`: push the puck to where a picture shows it, through subgoals of a keyframe model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

    from kpagent.agents.reaching import Moment
    from kpagent.agents.subgoal_planner import SubgoalPlanner


@dataclass(frozen=True)
class PlanReach:
    """Plan subgoals to what a goal image shows, and servo from one to the next, in kpagent/Pushing-v0.

    The film shows each frame, through which the goal shows, beside the subgoal that is pursued.
    """

    goal: str
    """Goal image, of the size of the environment's frames; or a number, the seed of a task with its own goal."""
    out: Path
    """Folder to write reach.mp4, reach.png and plan.png to."""
    weights: Path | None = None
    """KeyIn of kpagent keyframes train on pushing, on frames or on keypoints; straight to the goal, if not given."""
    dynamics: Path | None = None
    """Struct-VRNN of kpagent dynamics train --actions, on whose keypoints the KeyIn has learned: it imagines what follows
    from actions. The simulator's own dynamics and the puck's colour, if not given."""
    task: int = 0
    """Seed of puck and wall, where the goal is an image."""
    steps: int = 60
    """Actions, at most."""
    samples: int = 200
    """Sequences of actions in each of three rounds of a decision."""
    threads: int = 1
    """Of the simulator."""
    fps: float = 8
    """Frames a second of the film; four are a second of the table's."""
    seed: int = 0
    """Of all that the planner draws."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Plan, act, film, and say how it ended."""
        from kpagent.agents.reaching import draw_plan, reach
        from kpagent.drawing import require_writable, write_png
        from kpagent.envs.making import make_env
        from kpagent.envs.pushing.environment import PUSHING_ID
        from kpagent.envs.recording import record, require_film
        from kpagent.training import pick_device

        self._require_arguments()
        pick_device(self.device)
        video, sheet = require_film(self.out / "reach.mp4")
        plan = require_writable(self.out / "plan.png", ".png")
        with contextlib.closing(make_env(PUSHING_ID, show_goal=False, max_episode_steps=self.steps)) as env:
            goal = self._goal(env)
            planner = self._planner(env)
            moments: list[Moment] = []
            with progress_bar() as bar:
                task = bar.add_task("planning", total=self.steps)

                def keep(moment: Moment) -> None:
                    moments.append(moment)
                    bar.update(task, completed=moment.number, description=moment.title)

                scenes = reach(planner, env, goal, seed=self.task if goal is not None else int(self.goal))
                record(scenes, video, fps=self.fps, on_scene=keep)
            write_png(plan, draw_plan(moments))
            for line in self._told(planner, moments):
                console.print(line)
        console.print(f"wrote {video}, {sheet}, {plan}")
        return 0

    def _told(self, planner: SubgoalPlanner, moments: list[Moment]) -> Iterator[str]:
        from kpagent.envs.pushing.scene import SUCCESS

        pursuit, last = moments[0].pursuit, moments[-1]
        way = pursuit.subgoals
        if not math.isnan(way.cost) and way.cost > planner.config.reached:
            yield (
                f"no way that the model knows leads to the goal: the nearest ends {way.cost:.2f} from it, in coordinates of"
                " the image, which is 2 wide"
            )
        ended = (
            f"reached after {last.number} actions" if last.reached else f"not reached: stopped after {last.number} actions"
        )
        if self._is_seed:
            distance = last.info["distance"]
            done = f"success, under {SUCCESS}" if last.info["success"] else f"no success, which is under {SUCCESS}"
            ended += f"; the puck is {distance:.3f} from the goal around the wall, where it began {_begun(moments)} ({done})"
        yield f"{len(way.seen)} subgoals; {ended}"

    @property
    def _is_seed(self) -> bool:
        return self.goal.isdecimal()

    def _goal(self, env: gym.Env[Any, Any]) -> np.ndarray | None:
        """The goal image; None where a task brings its own."""
        import cv2

        if self._is_seed:
            return None
        path = Path(self.goal)
        image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if image is None:
            raise UsageError(f"{self.goal} is no number and no image that can be read; give a goal image or a task's seed")
        size = env.observation_space.shape
        if image.shape != size:
            height, width = image.shape[:2]
            assert size is not None
            raise UsageError(f"{path} is {width}x{height}; the environment's frames are {size[1]}x{size[0]}")
        return image[..., ::-1].copy()

    def _planner(self, env: gym.Env[Any, Any]) -> SubgoalPlanner:
        from dataclasses import replace

        from kpagent.agents.pushing_planners import keypoint_planner, puck_planner
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.planning.cem import CEMConfig
        from kpagent.planning.servoing import ServoingConfig
        from kpagent.subgoals.keyin import KeyIn
        from kpagent.training import pick_device

        device = pick_device(self.device)
        cem = CEMConfig(samples=self.samples, bounds=(-1.0, 1.0))
        config = replace(ServoingConfig(), steps=self.steps, cem=cem)
        model = None if self.weights is None else KeyIn.load(self.weights, device)
        if model is not None:
            _require_pushing(self.weights, model.provenance.get("trained_on"))
        try:
            if self.dynamics is None:
                return puck_planner(env, model, config=config, threads=self.threads, seed=self.seed)
            dynamics = StructVRNN.load(self.dynamics, device)
            return keypoint_planner(env, dynamics, model, config=config, seed=self.seed)
        except UsageError as error:
            named = " and ".join(str(path) for path in (self.weights, self.dynamics) if path is not None)
            raise UsageError(f"{named}: {error}" if named else str(error)) from error

    def _require_arguments(self) -> None:
        for name, least in (("task", 0), ("steps", 1), ("samples", 2), ("threads", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.fps < math.inf:
            raise UsageError(f"--fps must be above 0, not {self.fps}")


def _begun(moments: list[Moment]) -> str:
    return f"{moments[0].info['distance']:.3f}"


def _require_pushing(path: Path | None, trained_on: Any) -> None:
    """Refuse a model that says that it is of something else; a file of sequences may hold anything."""
    from kpagent.envs.pushing.environment import PUSHING_ID

    if isinstance(trained_on, str) and trained_on not in ("pushing", PUSHING_ID) and not trained_on.endswith(".h5"):
        raise UsageError(f"{path} was trained on {trained_on}, not on pushing: it knows no way on this table")
