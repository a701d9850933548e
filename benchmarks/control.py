"""DeepMind Control from pixels by planning in keypoints, beside SAC and random play, at equal interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.benchmarks.control_runs import METHODS, ControlMethod

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run

TASKS = ("cartpole-balance", "reacher-easy", "cheetah-run", "walker-stand")
LAST = 10
"""Episodes of training whose mean stands for what was reached at a time."""

Results = Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]
"""What `run_control` returned, by task, method and seed."""


@dataclass(frozen=True)
class Control:
    """Learn control tasks from pixels within equal interactions: planning in keypoints, SAC, random play.

    Each run has a process of its own. Agents that plan are taken up where they were interrupted; finished runs are not made
    again.
    """

    tasks: tuple[str, ...] = TASKS
    """Of DeepMind Control."""
    methods: tuple[ControlMethod, ...] = METHODS
    """Planning in keypoints that the agent learns from its own episodes; with a model that has learned from random play
    alone, and from no reward; SAC on frames; SAC on keypoints; random actions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs."""
    interactions: int = 50_000
    """To learn from: actions, each repeated by the environment, the random ones included."""
    random: int = 5_000
    """Of these, random ones at the beginning."""
    episodes: int = 10
    """Of evaluation, without noise."""
    keypoints: int = 16
    """K."""
    code_steps: int = 2_000
    """Of the keypoints at first."""
    first_updates: int = 3_000
    """Of dynamics and rewards, from random play."""
    updates: float = 0.4
    """Of dynamics and rewards for each interaction after that."""
    candidates: int = 500
    """Ways to act in each round of a decision."""
    sac_batch: int | None = None
    """Of SAC, on frames and keypoints; 64 and 256, if not given."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/control")
    """Folder of the runs."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.control_literature import PUBLISHED
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.errors import UsageError

        sizes = self._check()
        plan: dict[str, dict[str, dict[int, Run]]] = {
            task: {
                method: {seed: self.plan(task, method, seed, sizes[task]) for seed in self.seeds} for method in self.methods
            }
            for task in self.tasks
        }
        if self.finished:
            plan = {
                task: {method: done for method, seeds in methods.items() if (done := _done(seeds))}
                for task, methods in plan.items()
            }
            if not any(plan.values()):
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        runs = [run for methods in plan.values() for seeds in methods.values() for run in seeds.values()]
        run_all(runs, jobs=self.jobs, threads=self.threads, say=say)
        results = {
            task: {method: {seed: run.result() for seed, run in seeds.items()} for method, seeds in methods.items()}
            for task, methods in plan.items()
        }
        measurement = Measurement("control", self._command())
        add_figures(measurement, results)
        for task in self.tasks:
            for each in PUBLISHED.values():
                if task in each.at_100k:
                    early, late = each.at_100k[task], each.at_500k[task]
                    say(f"published, not measured here: {task}: {each.label} {early:g} / {late:g} at 100k / 500k env steps")
        return measurement.result()

    def plan(self, task: str, method: str, seed: int, actions: int) -> Run:
        """The run of one seed of one method on one task, for actions of so many numbers."""
        from kpagent.benchmarks.runs import Run
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.envs.control_play import default_repeat
        from kpagent.training import describe

        env_id, folder = _env_id(task), self.runs / task / method / f"seed_{seed}"
        names = ("interactions", "random", "first_updates", "updates", "code_steps", "candidates")
        arguments: dict[str, Any] = {
            "method": method,
            "env_id": env_id,
            "repeat": default_repeat(env_id),
            "seed": seed,
            "folder": str(folder),
            "model": describe(StructVRNNConfig.planning(self.keypoints, actions)),
            "learning": {name: getattr(self, name) for name in names} | {"seed": seed},
            "episodes": self.episodes,
            "device": self.device,
            "changes": {} if self.sac_batch is None or "sac" not in method else {"batch_size": self.sac_batch},
        }
        return Run("kpagent.benchmarks.control_runs:run_control", arguments, folder / "result.json")

    def _check(self) -> dict[str, int]:
        """Refuse what cannot be; returns the numbers in an action of each task."""
        import contextlib

        from kpagent.benchmarks.control_runs import learning_config
        from kpagent.envs.control_play import make_control_env
        from kpagent.envs.control_sequences import action_bounds
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "tasks must be given, each once": bool(self.tasks) and len(set(self.tasks)) == len(self.tasks),
            "methods must be given, each once": bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            "interactions must be more than random": self.interactions > self.random,
            "episodes must be at least 1": self.episodes >= 1,
            "code_steps must be at least 1": self.code_steps >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        pick_device(self.device)
        learning_config(self.plan(self.tasks[0], self.methods[0], self.seeds[0], 1).arguments["learning"])
        sizes = {}
        for task in self.tasks:
            # Says what is wrong with a task before anything long begins.
            with contextlib.closing(make_control_env(_env_id(task))) as env:
                sizes[task] = len(action_bounds(task, env.action_space)[0])
        return sizes

    def _command(self) -> str:
        parts = ["kpagent bench control --tasks", *self.tasks, "--methods", *self.methods]
        parts += ["--seeds", *map(str, self.seeds), "--interactions", str(self.interactions)]
        left_out = ("tasks", "methods", "seeds", "interactions", "jobs", "threads", "finished", "runs", "device", "out")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in left_out and value != field.default:
                parts += [f"--{field.name.replace('_', '-')}", str(value)]
        return " ".join([*parts, *(["--finished"] if self.finished else [])])


def add_figures(measurement: Measurement, results: Results) -> None:
    """Add returns and costs of each task and method.

    Args:
        measurement: is added to.
        results: of the runs.
    """
    from kpagent.evaluation.scores import mean_interval

    def add(name: str, values: list[float], unit: str) -> None:
        interval = mean_interval(values) if len(values) > 1 else None
        measurement.add(name, float(np.mean(values)), unit, per_seed=values, ci95=interval)

    for task, methods in results.items():
        ours = methods.get("keypoint_mpc", {})
        limit = float(np.mean([each["wall_s"] for each in ours.values()])) if ours else None
        for method, seeds in methods.items():
            found, path = list(seeds.values()), f"{task.replace('-', '_')}/{method}"
            add(f"{path}/return", [float(np.mean(each["returns"])) for each in found], "")
            add(f"{path}/interactions", [float(each["interactions"]) for each in found], "")
            for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB"), ("decisions_per_s", "1/s")):
                known = [float(each[key]) for each in found if key in each]
                if known:
                    add(f"{path}/{key}", known, unit)
            reached = [return_after(each["curve"], limit) for each in found] if limit is not None else []
            if reached and all(value is not None for value in reached):
                add(f"{path}/return@wall", [value for value in reached if value is not None], "")


def return_after(curve: list[list[float]], seconds: float) -> float | None:
    """Mean return of the last episodes of a training that had ended after so many seconds; None where none had.

    Args:
        curve: [interactions, return, seconds] of each episode, in order.
        seconds: of the training, on the clock.
    """
    values = [value for _, value, at in curve if at <= seconds]
    return float(np.mean(values[-LAST:])) if values else None


def _done(seeds: Mapping[int, Run]) -> dict[int, Run]:
    return {seed: run for seed, run in seeds.items() if run.done}


def _env_id(task: str) -> str:
    from kpagent.envs.control_frames import PREFIX

    return f"{PREFIX}{task}-v0"
