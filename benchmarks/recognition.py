"""Actions recognised from codes that were learned without labels (Struct-VRNN section 5.4, Figure 8; preprint S2.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run
    from kpagent.envs.walker_motions import WalkerMotions

RecognitionMethod = Literal["struct_vrnn", "cnn_vrnn", "coordinates"]
TRAINING_SEED, TEST_SEED = 0, 1
"""Of the motions: those that codes are learned from, and those on which actions are recognised."""

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What `recognize_actions` returned, by method and seed."""


@dataclass(frozen=True)
class Recognition:
    """Recognise eight motions of a walker from keypoints, from unstructured features and from true positions.

    Motions and runs are kept in RUNS and are not made again; what was interrupted is taken up where it was.
    """

    methods: tuple[RecognitionMethod, ...] = ("struct_vrnn", "cnn_vrnn", "coordinates")
    """Keypoints, a vector without structure, and true positions, which need no code to be learned."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; the motions are the same for all."""
    sequences: int = 1_200
    """To learn codes from, without labels."""
    test_sequences: int = 1_200
    """Others, with labels: four fifths to learn recognition from, a fifth to measure on. The paper has 1160."""
    length: int = 20
    """Frames of each."""
    keypoints: int = 16
    """K."""
    code_steps: int | None = None
    """Optimiser steps of the code; those of the `fast` preset, if not given."""
    recognition_steps: int = 3_000
    """Optimiser steps of the recognition: 100 epochs of the default sequences."""
    workers: int = 1
    """Processes that make motions."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/recognition")
    """Folder of motions and runs."""
    pictures: Path | None = None
    """Folder for the picture of what was taken for what; none is drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.recognition_figures import draw_confusion
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.dynamics.recognition_accuracy import Confusion
        from kpagent.errors import UsageError

        self._check()
        plan: dict[str, dict[int, Run]] = {
            method: {seed: self.plan(method, seed) for seed in self.seeds} for method in self.methods
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
        measurement = Measurement("recognition", self._command())
        add_figures(measurement, results)
        result = measurement.result()
        if self.pictures is not None:
            found = {m: [Confusion.of(one["confusion"]) for one in seeds.values()] for m, seeds in results.items()}
            draw_confusion(self.pictures / "recognition.png", found)
        return result

    def plan(self, method: str, seed: int) -> Run:
        """The run of one seed of one method."""
        from kpagent.benchmarks.runs import Run
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.dynamics.learning import LearningConfig
        from kpagent.dynamics.methods import method_config
        from kpagent.dynamics.recognition_learning import RecognitionLearningConfig
        from kpagent.training import describe

        folder = self.runs / method / f"seed_{seed}"
        # Refused here, and not by the last stage of a run.
        RecognitionLearningConfig.of(self.recognition_steps, seed, length=self.length)
        arguments = {
            "method": method,
            "seed": seed,
            "folder": str(folder),
            "test": str(self._test),
            "recognition_steps": self.recognition_steps,
            "length": self.length,
            "device": self.device,
        }
        if method != "coordinates":
            base = LearningConfig.fast()
            steps = base.code.steps if self.code_steps is None else self.code_steps
            model = method_config(method, StructVRNNConfig.fast(self.keypoints))
            learning = replace(base, code=replace(base.code, seed=seed, steps=steps))
            arguments |= {"training": str(self._training), "model": describe(model), "learning": describe(learning)}
        return Run("kpagent.benchmarks.recognition_runs:recognize_actions", arguments, folder / "result.json")

    @property
    def _training(self) -> Path:
        return self.runs / "motions.h5"

    @property
    def _test(self) -> Path:
        return self.runs / "motions_test.h5"

    def _source(self, count: int, seed: int) -> WalkerMotions:
        from kpagent.envs.walker_motions import MotionsConfig, WalkerMotions

        return WalkerMotions(count, seed, MotionsConfig(frames=self.length))

    def _record(self, say: Callable[[str], None]) -> None:
        from kpagent.collect.sequence_making import write_sequences

        for path, count, seed in (
            (self._training, self.sequences, TRAINING_SEED),
            (self._test, self.test_sequences, TEST_SEED),
        ):
            if seed == TRAINING_SEED and set(self.methods) == {"coordinates"}:
                continue
            if not path.exists():
                say(f"{path}: making {count} motions")
            write_sequences(path, self._source(count, seed), block=60, resume=True, workers=self.workers)

    def _check(self) -> None:
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "methods must be given, each once": bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            "sequences must be at least 10": self.sequences >= 10,
            "test_sequences must be at least 24": self.test_sequences >= 24,
            # Struct-VRNN's own windows, of frames that are observed and foretold, must fit.
            "length must be at least 16": self.length >= 16,
            "jobs must be at least 1": self.jobs >= 1,
            "workers must be at least 1": self.workers >= 1,
        }
        require(self, checks)
        self._source(self.sequences, TRAINING_SEED)
        for method in self.methods:
            self.plan(method, self.seeds[0])
        pick_device(self.device)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "recognition.png", ".png")

    def _command(self) -> str:
        parts = ["kpagent bench recognition --methods", *self.methods, "--seeds", *map(str, self.seeds)]
        left_out = ("methods", "seeds", "workers", "jobs", "threads", "finished", "runs", "pictures", "device", "out")
        always = ("sequences", "test_sequences")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in left_out and (field.name in always or value != field.default):
                parts += [f"--{field.name.replace('_', '-')}", str(value)]
        return " ".join([*parts, *(["--finished"] if self.finished else [])])


def add_figures(measurement: Measurement, results: Results) -> None:
    """Add the accuracy of each method, over all motions and for each, and what the runs cost.

    Args:
        measurement: is added to.
        results: of the runs.
    """
    from kpagent.dynamics.recognition_accuracy import Confusion
    from kpagent.evaluation.scores import mean_interval

    def add(name: str, values: list[float], unit: str = "") -> None:
        interval = mean_interval(values) if len(values) > 1 else None
        measurement.add(name, float(np.mean(values)), unit, per_seed=values, ci95=interval)

    for method, seeds in results.items():
        found = [Confusion.of(each["confusion"]) for each in seeds.values()]
        add(f"motions/{method}/accuracy", [each.accuracy for each in found])
        for number, name in enumerate(found[0].classes):
            shares = [float(each.shares()[number, number]) for each in found]
            # Of few sequences, no one of a motion may be held out.
            if np.isfinite(shares).all():
                add(f"motions/{method}/accuracy/{name}", shares)
        for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB")):
            add(f"all/{method}/{key}", [float(each["spent"][key]) for each in seeds.values()], unit)
    anyone = next(iter(next(iter(results.values())).values()))
    measurement.add("motions/most_frequent/accuracy", Confusion.of(anyone["confusion"]).most_frequent, "")
