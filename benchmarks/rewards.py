"""Rewards of control tasks from the states of dynamics models that never saw any (Struct-VRNN section 5.5, Figure 9)."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run
    from kpagent.envs.control_sequences import ControlSequences

RewardsMethod = Literal["struct_vrnn", "cnn_vrnn"]
TRAINING_SEED, TEST_SEED = 0, 1
"""Of the recordings: the one that dynamics are learned from, and the one that rewards are learned and measured on."""
TIMED = 10
"""Sequences of each task that are recorded to measure how fast that goes."""

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What `learn_task_rewards` returned, by method and seed."""


@dataclass(frozen=True)
class RewardPrediction:
    """Learn one action-conditional model of all tasks, Struct-VRNN and CNN-VRNN, and predict rewards from its states.

    Recordings and runs are kept in RUNS and are not made again; what was interrupted is taken up where it was.
    """

    methods: tuple[RewardsMethod, ...] = ("struct_vrnn", "cnn_vrnn")
    """Keypoints, and a vector without structure."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; the recordings are the same for all."""
    env: tuple[str, ...] = ()
    """Gymnasium ids; the paper's six tasks, if not given."""
    sequences: int = 1_000
    """Of each task, to learn dynamics from."""
    test_sequences: int = 1_000
    """Of each task, of another recording: four fifths to learn rewards from, a fifth to measure on. The paper has 10000."""
    length: int = 20
    """Frames of each."""
    keypoints: int = 64
    """K."""
    code_steps: int | None = None
    """Optimiser steps of the code; those of the `control` preset, if not given."""
    steps: int | None = None
    """Optimiser steps of the dynamics; those of the `control` preset, if not given."""
    reward_steps: int = 3_000
    """Optimiser steps of the rewards."""
    imagined: int = 10
    """Steps to imagine after the 8 frames that are observed."""
    futures: int = 4
    """Samples of these."""
    workers: int = 1
    """Processes that record."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/rewards")
    """Folder of recordings and runs."""
    pictures: Path | None = None
    """Folder for the curves; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.rewards_figures import draw_errors
        from kpagent.benchmarks.runs import run_all
        from kpagent.errors import UsageError

        self._check()
        # Making the environments says what is wrong with them before anything long begins.
        with contextlib.closing(self._source(TEST_SEED + 1, TIMED)) as source:
            actions, speed = source.action_dim, _frames_a_second(source)
        plan: dict[str, dict[int, Run]] = {
            method: {seed: self.plan(method, seed, actions) for seed in self.seeds} for method in self.methods
        }
        if self.finished:
            plan = {m: done for m, runs in plan.items() if (done := {s: run for s, run in runs.items() if run.done})}
            if not plan:
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        runs = [run for seeds in plan.values() for run in seeds.values()]
        for run in runs:
            if run.done:
                run.result()
        if any(not run.done for run in runs):
            self._record(say)
        run_all(runs, jobs=self.jobs, threads=self.threads, say=say)
        results: dict[str, dict[int, Any]] = {
            method: {seed: run.result() for seed, run in seeds.items()} for method, seeds in plan.items()
        }
        measurement = Measurement("rewards", self._command())
        add_figures(measurement, results, self.imagined)
        measurement.add("recording/frames_per_s_per_core", speed, "frames/s of one core's time")
        result = measurement.result()
        if self.pictures is not None:
            curves = {method: _curves(seeds) for method, seeds in results.items()}
            draw_errors(self.pictures / "rewards_errors.png", curves, first_imagined=self._first_imagined(results))
        return result

    def plan(self, method: str, seed: int, actions: int) -> Run:
        """The run of one seed of one method, for actions of so many numbers."""
        from kpagent.benchmarks.runs import Run
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.dynamics.learning import LearningConfig
        from kpagent.dynamics.methods import method_config
        from kpagent.dynamics.reward_learning import RewardLearningConfig
        from kpagent.dynamics.reward_states import StatesConfig
        from kpagent.training import describe

        folder = self.runs / method / f"seed_{seed}"
        model = method_config(method, StructVRNNConfig.control(self.keypoints, actions))
        base = LearningConfig.fast()
        # Of frames of different sequences of one task: painted from its own first frame, a body that moves little needs no
        # keypoints at first, and they stay where they began.
        learning = replace(
            base,
            mix=1.0,
            code=replace(base.code, seed=seed, steps=base.code.steps if self.code_steps is None else self.code_steps),
            dynamics=replace(base.dynamics, seed=seed, steps=base.dynamics.steps if self.steps is None else self.steps),
        )
        states = StatesConfig(self.length, model.dynamics.observed, self.imagined, self.futures)
        # Refused here, and not by the last stage of a run.
        RewardLearningConfig.of(self.reward_steps, seed, states=states)
        arguments = {
            "method": method,
            "seed": seed,
            "folder": str(folder),
            "training": str(self._training),
            "test": str(self._test),
            "model": describe(model),
            "learning": describe(learning),
            "reward_steps": self.reward_steps,
            "states": describe(states),
            "device": self.device,
        }
        return Run("kpagent.benchmarks.rewards_runs:learn_task_rewards", arguments, folder / "result.json")

    @property
    def _training(self) -> Path:
        return self.runs / "control.h5"

    @property
    def _test(self) -> Path:
        return self.runs / "control_test.h5"

    def _source(self, seed: int, count: int) -> ControlSequences:
        from kpagent.envs.control_frames import PREFIX
        from kpagent.envs.control_sequences import TASKS, ControlSequences, RecordingConfig

        env_ids = self.env or tuple(f"{PREFIX}{task}-v0" for task in TASKS)
        return ControlSequences(env_ids, RecordingConfig(sequences=count, length=self.length, seed=seed))

    def _record(self, say: Callable[[str], None]) -> None:
        from kpagent.collect.sequence_making import write_sequences

        for path, count, seed in (
            (self._training, self.sequences, TRAINING_SEED),
            (self._test, self.test_sequences, TEST_SEED),
        ):
            with contextlib.closing(self._source(seed, count)) as source:
                if not path.exists():
                    say(f"{path}: recording {source.count} sequences")
                write_sequences(path, source, block=60, resume=True, workers=self.workers)

    def _check(self) -> None:
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "methods must be given, each once": bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            "sequences must be at least 10": self.sequences >= 10,
            "test_sequences must be at least 10": self.test_sequences >= 10,
            "jobs must be at least 1": self.jobs >= 1,
            "workers must be at least 1": self.workers >= 1,
        }
        require(self, checks)
        for method in self.methods:
            self.plan(method, self.seeds[0], actions=1)
        pick_device(self.device)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "rewards_errors.png", ".png")

    def _command(self) -> str:
        parts = ["kpagent bench rewards --methods", *self.methods, "--seeds", *map(str, self.seeds)]
        left_out = ("methods", "seeds", "workers", "jobs", "threads", "finished", "runs", "pictures", "device", "out")
        always = ("sequences", "test_sequences")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in left_out and (field.name in always or value != field.default):
                values = value if isinstance(value, tuple) else (value,)
                parts += [f"--{field.name.replace('_', '-')}", *(shlex.quote(str(each)) for each in values)]
        return " ".join([*parts, *(["--finished"] if self.finished else [])])

    @staticmethod
    def _first_imagined(results: Results) -> int:
        anyone = next(iter(next(iter(results.values())).values()))
        return int(next(iter(anyone["errors"].values()))["first_imagined"])


def add_figures(measurement: Measurement, results: Results, imagined: int) -> None:
    """Add the errors of each task and method, as shares of the null model's, and what the runs cost.

    Args:
        measurement: is added to.
        results: of the runs.
        imagined: steps that were imagined.
    """
    from kpagent.evaluation.scores import mean_interval

    def add(name: str, values: list[float], unit: str) -> None:
        interval = mean_interval(values) if len(values) > 1 else None
        measurement.add(name, float(np.mean(values)), unit, per_seed=values, ci95=interval)

    for method, seeds in results.items():
        found = list(seeds.values())
        for task in found[0]["errors"]:
            errors, path = [each["errors"][task] for each in found], f"{re.sub('[^A-Za-z0-9_]', '_', task)}/{method}"
            add(f"{path}/error@observed", [each["observed_share"] for each in errors], "")
            add(f"{path}/error@imagined{imagined}", [each["imagined_share"] for each in errors], "")
        for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB")):
            add(f"all/{method}/{key}", [float(each["spent"][key]) for each in found], unit)


def _curves(seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, list[dict[str, list[float]]]]:
    """For each task, one pair of curves for each seed."""
    from kpagent.dynamics.reward_errors import RewardErrors

    tasks = next(iter(seeds.values()))["errors"]
    return {task: [RewardErrors.of(each["errors"][task]).curves() for each in seeds.values()] for task in tasks}


def _frames_a_second(source: ControlSequences) -> float:
    """Of one core's time, in this process, with the environments made already."""
    from kpagent.spending import Meter

    meter = Meter()
    frames = sum(len(sequence.frames) for sequence in source.make(0, source.count))
    return frames / max(meter.read()["cpu_s"], 1e-3)
