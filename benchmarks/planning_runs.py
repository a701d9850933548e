"""The runs of the planning benchmark, as `runs.run_all` calls them: some tasks of one method, one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.benchmarks.planning_methods import LEARNED, learned_dynamics, learned_keyframes, subgoal_source
from kpagent.benchmarks.runs import Run

if TYPE_CHECKING:
    from kpagent.agents.reaching import Moment
    from kpagent.agents.subgoal_planner import SubgoalPlanner, SubgoalSource
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.envs.pushing.scene import Scene
    from kpagent.envs.pushing.tasks import PushingTask
    from kpagent.subgoals.keyin import KeyIn

_THIS = "kpagent.benchmarks.planning_runs:plan_task"


def plan_tasks(
    method: str, seed: int, folder: str, *, tasks: Sequence[Mapping[str, Any]], models: str, servoing: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Plan and act in tasks. Those that a killed run has finished are not done again.

    Args:
        method: one of `planning_methods.METHODS` but initial.
        seed: of the model, and of all that is drawn.
        folder: for the result of each task.
        tasks: as of `describe_task`.
        models: folder of the runs of `kpagent bench keyframes`, or of learned dynamics.
        servoing: `steps`, `subgoal_steps`, `horizon`, `samples` and `refits`.

    Returns:
        For each task: `distance` of the puck from the goal around the wall at the end; `success`; `arrived`, whether the
        planner saw it there; `actions`; `subgoals`, how many were planned; `plan_cost`, how far the plan ends from the goal,
        or None; `decision_s`, seconds of processor time of a servoing decision, or None without one; `planning_s`, of the
        subgoals.
    """
    from kpagent.files import write_json

    done: list[dict[str, Any]] = []
    player: Player | None = None
    with contextlib.ExitStack() as stack:
        for task in tasks:
            arguments = {"method": method, "seed": seed, "task": dict(task), "servoing": dict(servoing)}
            run = Run(_THIS, arguments, Path(folder) / f"task_{task['number']}.json")
            if not run.done:
                if player is None:
                    player = Player(method, seed, Path(models), servoing)
                    stack.callback(player.close)
                result = player.play(task)
                write_json(run.path, {"function": _THIS, "arguments": arguments, "result": result})
                print(f"{run.path}: {result['distance']:.3f}", flush=True)
            done.append(run.result())
    return done


def describe_task(task: PushingTask) -> dict[str, Any]:
    """A task as plain values."""
    scene = {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(task.scene).items()
    }
    return {"number": task.number, "scene": scene, "subgoals": task.subgoals.tolist(), "hard": task.hard}


class Player:
    """One method in the environment.

    Args:
        method: as of `plan_tasks`.
        seed: likewise.
        models: likewise.
        servoing: likewise.

    Raises:
        UsageError: a model that is needed is not there or is damaged.
    """

    def __init__(self, method: str, seed: int, models: Path, servoing: Mapping[str, Any]) -> None:
        from kpagent.envs.pushing.environment import Pushing
        from kpagent.envs.pushing.puck_world import PuckWorld

        self.method, self.seed, self.servoing = method, seed, servoing
        self.env = Pushing(show_goal=False)
        self._models: tuple[StructVRNN, KeyIn | None] | None = None
        if method in LEARNED:
            self._models = _load_learned(method, seed, models)
        else:
            self._world = PuckWorld(self.env)
            self._source = subgoal_source(models, method, seed, self.env, self._world)

    def close(self) -> None:
        """Give back what renders, and the simulator's threads."""
        if self._models is None:
            self._world.close()
        self.env.close()

    def play(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Do one task; returns what `plan_tasks` does of it."""
        return self._act_randomly(task) if self.method == "random" else self._plan(task)

    def moments(self, task: Mapping[str, Any]) -> Iterator[Moment]:
        """Do one task by planning, step by step."""
        from kpagent.agents.reaching import reach

        return reach(self._planner(task), self.env, options={"scene": _scene(task)})

    def _act_randomly(self, task: Mapping[str, Any]) -> dict[str, Any]:
        draws, steps = np.random.default_rng((self.seed, task["number"])), self.servoing["steps"]
        _, info = self.env.reset(options={"scene": _scene(task)})
        for _ in range(steps):
            _, _, _, _, info = self.env.step(draws.uniform(-1, 1, size=3))
        nothing = {"arrived": False, "subgoals": 0, "plan_cost": None, "decision_s": None, "planning_s": None}
        return _ended(info) | {"actions": steps} | nothing

    def _plan(self, task: Mapping[str, Any]) -> dict[str, Any]:
        spent: list[float] = []
        moments: list[Moment] = []
        begun = time.process_time()
        for moment in self.moments(task):
            spent.append(time.process_time() - begun)
            moments.append(moment)
            begun = time.process_time()
        last = moments[-1]
        way = last.pursuit.subgoals
        # The first has the planning of subgoals in it; the last decides nothing.
        decisions = spent[1:-1]
        return _ended(last.info) | {
            "actions": last.number,
            "arrived": last.reached,
            "subgoals": len(way.seen),
            "plan_cost": way.cost if math.isfinite(way.cost) else None,
            "decision_s": float(np.mean(decisions)) if decisions else None,
            "planning_s": spent[0],
        }

    def _planner(self, task: Mapping[str, Any]) -> SubgoalPlanner:
        from kpagent.agents.pushing_planners import keypoint_planner
        from kpagent.agents.subgoal_planner import SubgoalPlanner
        from kpagent.planning.cem import CEMConfig
        from kpagent.planning.servoing import ServoingConfig

        given = dict(self.servoing)
        cem = CEMConfig(samples=given.pop("samples"), refits=given.pop("refits"), bounds=(-1.0, 1.0))
        seed = int(np.random.SeedSequence((self.seed, task["number"])).generate_state(1)[0])
        config = ServoingConfig(cem=cem, **given)
        if self._models is not None:
            return keypoint_planner(self.env, *self._models, config=config, seed=seed)
        source = _true_source(task) if self.method == "true_subgoals" else self._source
        return SubgoalPlanner(self.env, self._world, subgoals=source, config=config, seed=seed)


def _load_learned(method: str, seed: int, folder: Path) -> tuple[StructVRNN, KeyIn | None]:
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.subgoals.keyin import KeyIn

    model = KeyIn.load(learned_keyframes(folder, seed)) if method == "keyin_learned" else None
    return StructVRNN.load(learned_dynamics(folder, seed)), model


def _scene(task: Mapping[str, Any]) -> Scene:
    from kpagent.envs.pushing.scene import Scene

    values = task["scene"]
    return Scene(tuple(values["puck"]), tuple(values["goal"]), tuple(values["wall"]), values["wall_angle"])


def _true_source(task: Mapping[str, Any]) -> SubgoalSource:
    """The ends of the demonstrator's pushes but the last, which is at the goal."""
    import torch

    from kpagent.agents.subgoal_planner import Subgoals
    from kpagent.envs.pushing.simulation import seen

    places = np.array(task["subgoals"])[:-1]
    found = Subgoals(torch.from_numpy(seen(np.zeros((len(places), 3)), places)[:, 0]))
    return lambda frame, goal, distance, seed: found


def _ended(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"distance": float(info["distance"]), "success": bool(info["success"])}
