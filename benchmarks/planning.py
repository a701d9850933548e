"""Planning on pushing through subgoals of KeyIn, its forms and baselines, and without any (KeyIn section 4.2, Table 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.benchmarks.planning_methods import LEARNED, METHODS, PAPER_ERROR, PAPER_SUCCESS, Method, needed

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run
    from kpagent.envs.pushing.tasks import PushingTask

TASK_SEED = 2
"""Of the tasks; demonstrations are learned from, and tested on, with seeds of their own."""
AT_ONCE = 10
"""Tasks of one run."""
_RUNS = "kpagent.benchmarks.planning_runs"

Results = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
"""What `plan_tasks` returned, one for each task, by method and seed."""


@dataclass(frozen=True)
class Planning:
    """Push a puck around a wall to what a goal image shows, with one low-level planner and subgoals from everywhere.

    Models are those that `kpagent bench keyframes` has trained on pushing. Each run, of ten tasks, has a process of its own;
    results are kept in RUNS task by task and are not made again.
    """

    methods: tuple[Method, ...] = METHODS
    """Nothing done, random actions, no subgoals; TAP, surprise and jumpy on keypoints; KeyIn on frames and on keypoints; on
    true positions, and a demonstrator's own subgoals, as upper bounds; no subgoals and KeyIn with learned dynamics."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the models, and of all that is drawn; the tasks are the same for all."""
    tasks: int = 120
    """As many as the paper seems to have."""
    hard_share: float = 0.5
    """Share of tasks whose way around the wall is more than 0.35 longer than the straight one; about a twentieth of those
    that are drawn at random."""
    steps: int = 60
    """Actions of an episode, at most (Table 3)."""
    subgoal_steps: int = 10
    """For one subgoal, at most (Table 3)."""
    horizon: int = 8
    """Actions that are planned ahead (Table 3)."""
    samples: int = 200
    """Sequences of actions in each round of a decision (Table 3)."""
    refits: int = 3
    """Rounds of a decision (Table 3)."""
    jobs: int = 1
    """Runs at a time."""
    finished: bool = False
    """Measure what is finished in RUNS, and start none."""
    keyframes: Path = Path("runs/keyframes")
    """Folder of the runs of kpagent bench keyframes."""
    learned: Path = Path("runs/planning_learned")
    """Folder of what methods with learned dynamics need: seed_SEED/dynamics of kpagent dynamics train, and
    seed_SEED/keyframes of kpagent keyframes train on its keypoints."""
    runs: Path = Path("runs/planning")
    """Folder of the runs."""
    pictures: Path | None = None
    """Folder for bars, and for one hard task by each method; none are drawn, if not given."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.envs.pushing.tasks import draw_tasks
        from kpagent.errors import UsageError

        self._check()
        tasks = draw_tasks(self.tasks, seed=TASK_SEED, hard_share=self.hard_share)
        plan: dict[str, dict[int, list[Run]]] = {
            method: {seed: self.plan(method, seed, tasks) for seed in self.seeds}
            for method in self.methods
            if method != "initial"
        }
        if self.finished:
            plan = {method: done for method, seeds in plan.items() if (done := _done(seeds))}
            if not plan:
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        for method, seeds in plan.items():
            self._require_models(method, [seed for seed, each in seeds.items() if not all(run.done for run in each)])
        runs = [run for seeds in plan.values() for each in seeds.values() for run in each]
        # One thread each, so that so many jobs take so many cores; the seconds of a decision are of one core.
        run_all(runs, jobs=self.jobs, threads=1, say=say)

        results: dict[str, dict[int, list[Mapping[str, Any]]]] = {
            method: {seed: [task for run in each for task in run.result()] for seed, each in seeds.items()}
            for method, seeds in plan.items()
        }
        if "initial" in self.methods:
            untouched: dict[int, list[Mapping[str, Any]]] = {0: [_untouched(task) for task in tasks]}
            results = {"initial": untouched} | results
        measurement = Measurement("planning", self._command())
        add_figures(measurement, results, [task.hard for task in tasks])
        result = measurement.result()
        if self.pictures is not None:
            self._draw(self.pictures, result["figures"], plan, tasks)
        return result

    def plan(self, method: str, seed: int, tasks: Sequence[PushingTask]) -> list[Run]:
        """The runs of one seed of one method."""
        from kpagent.benchmarks.planning_runs import describe_task
        from kpagent.benchmarks.runs import Run

        folder = self.runs / method / f"seed_{seed}"
        names = ("steps", "subgoal_steps", "horizon", "samples", "refits")
        runs = []
        for start in range(0, len(tasks), AT_ONCE):
            some = tasks[start : start + AT_ONCE]
            arguments = {
                "method": method,
                "seed": seed,
                "folder": str(folder),
                "tasks": [describe_task(task) for task in some],
                "models": str(self.learned if method in LEARNED else self.keyframes),
                "servoing": {name: getattr(self, name) for name in names},
            }
            path = folder / f"tasks_{some[0].number}_to_{some[-1].number}.json"
            runs.append(Run(f"{_RUNS}:plan_tasks", arguments, path))
        return runs

    def _require_models(self, method: str, seeds: Sequence[int]) -> None:
        from kpagent.errors import UsageError

        for seed in seeds:
            for path in needed(self.keyframes, self.learned, method, seed):
                if path.exists():
                    continue
                how = f"kpagent bench keyframes --datasets pushing --methods {method} --seeds {seed}"
                if method in LEARNED:
                    how = "kpagent dynamics train and kpagent keyframes train, see docs/planning.md"
                raise UsageError(f"{method} needs {path}, which is not there; make it with {how}, or leave out {method}")

    def _check(self) -> None:
        from kpagent.envs.pushing.simulation import require_mujoco
        from kpagent.fields import require

        checks = {
            f"methods must be of {', '.join(METHODS)}, each once": bool(self.methods)
            and len(set(self.methods)) == len(self.methods)
            and set(self.methods) <= set(METHODS),
            "seeds must be different and at least 0": bool(self.seeds)
            and len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds) >= 0,
            "tasks must be at least 2": self.tasks >= 2,
            "hard_share must be from 0 to 1": 0 <= self.hard_share <= 1,
            "steps must be at least 1": self.steps >= 1,
            "subgoal_steps must be at least 1": self.subgoal_steps >= 1,
            "horizon must be at least 1": self.horizon >= 1,
            "samples must be at least 2": self.samples >= 2,
            "refits must be at least 1": self.refits >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        require_mujoco()
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "planning.png", ".png")

    def _command(self) -> str:
        parts = ["kpagent bench planning --methods", *self.methods, "--seeds", *map(str, self.seeds)]
        always = ("tasks", "hard_share")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            listed = (*always, "steps", "subgoal_steps", "horizon", "samples", "refits")
            if field.name in listed and (field.name in always or value != field.default):
                parts += [f"--{field.name.replace('_', '-')}", str(value)]
        return " ".join([*parts, *(["--finished"] if self.finished else [])])

    def _draw(
        self,
        folder: Path,
        figures: Mapping[str, Any],
        plan: Mapping[str, Mapping[int, list[Run]]],
        tasks: Sequence[PushingTask],
    ) -> None:
        from kpagent.benchmarks.planning_figures import draw_bars, draw_execution
        from kpagent.drawing import write_png

        draw_bars(folder / "planning.png", figures)
        hardest = max(tasks, key=lambda task: task.detour)
        for method, seeds in plan.items():
            if method != "random":
                seed, each = next(iter(seeds.items()))
                write_png(folder / f"planning_{method}.png", draw_execution(each[0].arguments, seed, hardest))


def add_figures(measurement: Measurement, results: Results, hard: Sequence[bool]) -> None:
    """Add the figures of all methods, over all tasks and over those of each group.

    An interval is a bootstrap over tasks, of each task's mean over seeds.

    Args:
        measurement: is added to.
        results: of the runs; all have the same tasks.
        hard: whether each task is.
    """
    import numpy as np

    from kpagent.benchmarks.results import bootstrap_ci95

    groups = {"all": np.ones(len(hard), bool), "ordinary": ~np.array(hard), "hard": np.array(hard)}
    for method, seeds in results.items():
        for group, chosen in groups.items():
            if not chosen.any():
                continue
            measurement.add(f"{method}/{group}/tasks", float(chosen.sum()), "")
            for name, key, papers in (
                ("position_error", "distance", PAPER_ERROR),
                ("success", "success", PAPER_SUCCESS),
            ):
                values = np.array([[float(task[key]) for task in tasks] for tasks in seeds.values()])[:, chosen]
                each = values.mean(axis=0)
                # Of tasks that are all alike there is nothing to draw from.
                interval = bootstrap_ci95(each) if len(each) > 1 and each.std() > 0 else (float(each.mean()),) * 2
                measurement.add(
                    f"{method}/{group}/{name}",
                    float(values.mean()),
                    "units of the table" if name == "position_error" else "",
                    per_seed=values.mean(axis=1).tolist(),
                    ci95=interval,
                    paper=papers.get(method) if group == "all" else None,
                )
        flat = [task for tasks in seeds.values() for task in tasks]
        for name, unit in (("decision_s", "s of one core"), ("planning_s", "s of one core"), ("plan_cost", "coordinates")):
            known = [float(task[name]) for task in flat if task.get(name) is not None]
            if known:
                measurement.add(f"{method}/{name}", float(np.mean(known)), unit)


def _untouched(task: PushingTask) -> dict[str, Any]:
    from kpagent.envs.pushing.scene import SUCCESS, path_length

    distance = float(path_length(task.scene, task.scene.puck, task.scene.goal))
    return {"distance": distance, "success": distance < SUCCESS}


def _done(seeds: Mapping[int, list[Run]]) -> dict[int, list[Run]]:
    return {seed: each for seed, each in seeds.items() if all(run.done for run in each)}
