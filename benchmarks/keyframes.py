"""Keyframes of Structured Brownian motion and of pushing: KeyIn, ablations and baselines (KeyIn section 4.1, Table 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.benchmarks.keyframe_codes import PERCEPTION
from kpagent.benchmarks.keyframe_methods import (
    CODE_STEPS,
    DATASETS,
    GIVERS,
    METHODS,
    MIX,
    PLACED,
    Dataset,
    Method,
    code_config,
    kind_of,
    learning_config,
    learns_from,
    model_config,
    sequence_source,
)

if TYPE_CHECKING:
    from kpagent.benchmarks.keyframe_results import Results
    from kpagent.benchmarks.runs import Run

TRAINING_SEED, TEST_SEED = 0, 1
"""Of the sequences that are learned from, and of those in which keyframes are to be found."""
_CODES = "kpagent.benchmarks.keyframe_codes"
_RUNS = "kpagent.benchmarks.keyframe_runs"
_LEAST_SEQUENCES = 20


@dataclass(frozen=True)
class KeyframeDiscovery:
    """Learn KeyIn, its ablations and baselines on sequences with known keyframes, and find those of others.

    Each run has a process of its own. Sequences, codes and runs are kept in RUNS and are not made again; a run that was
    interrupted is taken up where it was.
    """

    datasets: tuple[Dataset, ...] = DATASETS
    """Structured Brownian motion, and pushing around a wall."""
    methods: tuple[Method, ...] = METHODS
    """KeyIn on keypoints that are learned without labels, on true positions (an upper bound) and on frames; learned all at
    once, and with the paper's losses alone; and the baselines."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; the sequences are the same for all."""
    sequences: int = 10_000
    """To learn from, of each dataset."""
    test_sequences: int = 500
    """To find keyframes in."""
    code_steps: int | None = None
    """Optimiser steps of the keypoint code; 1200 for brownian and 2000 for pushing, if not given."""
    interpolator_steps: int | None = None
    """Optimiser steps of KeyIn's first stage; those of the `fast` preset, if not given."""
    steps: int | None = None
    """Optimiser steps of KeyIn's second stage, likewise; what has one stage takes as many as both."""
    samples: int = 50
    """From the prior, for each test sequence of pushing: whether they go by both ends of the wall."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/keyframes")
    """Folder of sequences, codes and runs."""
    pictures: Path | None = None
    """Folder for bars, keyframes and samples; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.keyframe_results import add_code_figures, add_figures
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.errors import UsageError

        self._check()
        plan: dict[tuple[str, str], dict[int, Run]] = {
            (dataset, method): {seed: self.plan(dataset, method, seed) for seed in self._seeds(method)}
            for dataset in self.datasets
            for method in self.methods
        }
        seeds = self.seeds if self._need_codes else ()
        codes = {dataset: {seed: self.plan_code(dataset, seed) for seed in seeds} for dataset in self.datasets}
        truths = [self.plan_truth(dataset) for dataset in self.datasets]
        if self.finished:
            plan = {key: done for key, runs in plan.items() if (done := _done(runs))}
            codes = {dataset: _done(runs) for dataset, runs in codes.items()}
            truths = [run for run in truths if run.done]
            if not plan:
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        learned = [run for runs in plan.values() for run in runs.values()]
        # What others take over comes first, and codes before what learns from them.
        stages = [
            truths,
            [run for runs in codes.values() for run in runs.values()],
            [run for run in learned if not run.arguments.get("interpolator_from")],
            [run for run in learned if run.arguments.get("interpolator_from")],
        ]
        for run in (run for stage in stages for run in stage):
            if run.done:
                run.result()
        if any(not run.done for stage in stages for run in stage):
            self._make_sequences(say)
        for stage in stages:
            run_all(stage, jobs=self.jobs, threads=self.threads, say=say)

        measurement = Measurement("keyframes", self._command())
        results = {key: {seed: run.result() for seed, run in runs.items()} for key, runs in plan.items()}
        add_figures(measurement, results)
        for dataset, runs in codes.items():
            add_code_figures(measurement, dataset, [run.result() for run in runs.values()])
        result = measurement.result()
        if self.pictures is not None:
            self._draw(self.pictures, result["figures"], results)
        return result

    def plan(self, dataset: str, method: str, seed: int) -> Run:
        """The run of one seed of one method on one dataset."""
        from kpagent.benchmarks.runs import Run
        from kpagent.training import describe

        path, kind = self._folder(dataset, method, seed) / "result.json", kind_of(method)
        config = describe(model_config(dataset, method))
        if method in PLACED:
            arguments = {"kind": kind, "seed": seed, "truth": str(self._truth(dataset)), "model": config}
            return Run(f"{_RUNS}:place_keyframes", arguments, path)
        sources = {"keypoints": self._codes(dataset, seed), "positions": self._truth(dataset), "frames": None}
        giver, seen = GIVERS.get(method), learns_from(method)
        codes = sources[seen]
        arguments = self._same(dataset, method, seed) | {
            "kind": kind,
            "codes": None if codes is None else str(codes),
            "model": config,
            "learning": describe(learning_config(method, seed, self.interpolator_steps, self.steps)),
            "samples": self.samples,
            "perception": str(self._folder(dataset, "code", seed) / PERCEPTION)
            if learns_from(method) == "keypoints"
            else None,
            "interpolator_from": None if giver is None else str(self._folder(dataset, giver, seed)),
        }
        return Run(f"{_RUNS}:learn_keyframes", arguments, path)

    def plan_code(self, dataset: str, seed: int) -> Run:
        """The run that learns the keypoint code of one seed."""
        from kpagent.benchmarks.runs import Run
        from kpagent.dynamics.learning import LearningConfig
        from kpagent.training import describe

        base = LearningConfig.fast()
        code = replace(base.code, seed=seed, steps=CODE_STEPS[dataset] if self.code_steps is None else self.code_steps)
        arguments = self._same(dataset, "code", seed) | {
            "path": str(self._codes(dataset, seed)),
            "model": describe(code_config(dataset)),
            "learning": describe(replace(base, code=code, mix=MIX[dataset])),
        }
        return Run(f"{_CODES}:learn_code", arguments, self._folder(dataset, "code", seed) / "result.json")

    def plan_truth(self, dataset: str) -> Run:
        """The run that keeps true positions and keyframes apart from the frames."""
        from kpagent.benchmarks.runs import Run

        paths = {"training": self._training(dataset), "test": self._test(dataset), "path": self._truth(dataset)}
        arguments = {name: str(path) for name, path in paths.items()} | {"counts": [self.sequences, self.test_sequences]}
        return Run(f"{_CODES}:keep_truth", arguments, self.runs / dataset / "truth.json")

    def _same(self, dataset: str, method: str, seed: int) -> dict[str, Any]:
        """Arguments that all runs which learn have."""
        paths = {
            "folder": self._folder(dataset, method, seed),
            "training": self._training(dataset),
            "test": self._test(dataset),
            "truth": self._truth(dataset),
        }
        return {"seed": seed, "device": self.device} | {name: str(path) for name, path in paths.items()}

    def _folder(self, dataset: str, method: str, seed: int) -> Path:
        return self.runs / dataset / method / f"seed_{seed}"

    def _training(self, dataset: str) -> Path:
        return self.runs / dataset / "sequences.h5"

    def _test(self, dataset: str) -> Path:
        return self.runs / dataset / "sequences_test.h5"

    def _truth(self, dataset: str) -> Path:
        return self.runs / dataset / "truth.safetensors"

    def _codes(self, dataset: str, seed: int) -> Path:
        return self._folder(dataset, "code", seed) / "codes.safetensors"

    @property
    def _need_codes(self) -> bool:
        return any(method not in PLACED and learns_from(method) == "keypoints" for method in self.methods)

    def _seeds(self, method: str) -> tuple[int, ...]:
        return self.seeds[:1] if method == "constant" else self.seeds

    def _make_sequences(self, say: Callable[[str], None]) -> None:
        from kpagent.collect.sequence_making import write_sequences

        for dataset in self.datasets:
            for path, count, seed in (
                (self._training(dataset), self.sequences, TRAINING_SEED),
                (self._test(dataset), self.test_sequences, TEST_SEED),
            ):
                if not path.exists():
                    say(f"{path}: making {count} sequences")
                write_sequences(path, sequence_source(dataset, count, seed), resume=True)

    def _check(self) -> None:
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            f"datasets must be of {', '.join(DATASETS)}, each once": _each_once(self.datasets, DATASETS),
            f"methods must be of {', '.join(METHODS)}, each once": _each_once(self.methods, METHODS),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            f"sequences must be at least {_LEAST_SEQUENCES}": self.sequences >= _LEAST_SEQUENCES,
            "test_sequences must be at least 1": self.test_sequences >= 1,
            "samples must be at least 1": self.samples >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        for dataset in self.datasets:
            sequence_source(dataset, 1, 0)
            self.plan_code(dataset, self.seeds[0])
            for method in self.methods:
                self.plan(dataset, method, self.seeds[0])
        pick_device(self.device)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "keyframes.png", ".png")

    def _command(self) -> str:
        parts = ["kpagent bench keyframes --datasets", *self.datasets, "--methods", *self.methods]
        parts += ["--seeds", *map(str, self.seeds)]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            always = field.name in ("sequences", "test_sequences")
            listed = ("sequences", "test_sequences", "code_steps", "interpolator_steps", "steps", "samples")
            if field.name in listed and (always or value != field.default):
                parts += [f"--{field.name.replace('_', '-')}", str(value)]
        return " ".join([*parts, *(["--finished"] if self.finished else [])])

    def _draw(self, folder: Path, figures: Mapping[str, Any], results: Results) -> None:
        from kpagent.benchmarks.keyframe_figures import draw_model, draw_scores

        draw_scores(folder / "keyframes.png", figures)
        for (dataset, method), found in results.items():
            if method not in PLACED:
                draw_model(folder, f"{dataset}_{method}", self.plan(dataset, method, next(iter(found))).arguments)


def _each_once(chosen: tuple[str, ...], known: tuple[str, ...]) -> bool:
    return bool(chosen) and len(set(chosen)) == len(chosen) and set(chosen) <= set(known)


def _done(runs: Mapping[int, Run]) -> dict[int, Run]:
    return {seed: run for seed, run in runs.items() if run.done}
