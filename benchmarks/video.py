"""Struct-VRNN, its ablations and baselines on a Basketball-like set (Struct-VRNN section 5, Figures 3 to 5, S1, S6)."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.dynamics.methods import METHODS, Method

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run
    from kpagent.dynamics.configuration import StructVRNNConfig

FULL: Method = "struct_vrnn"
"""What the others are compared with."""
CONSTANT = "constant"
"""The last observed code, kept."""
WEIGHTS = (0.0, 0.01, 0.1, 1.0)
"""Of the separation and of the sparsity loss, in the heatmap."""
TRAINING_SEED, TEST_SEED = 0, 1
"""Of the games that are learned from, and of those that are foretold."""
_RUNS = "kpagent.benchmarks.video_runs"
_OF_WIDTH = "% of the court's width"

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What `learn_video` returned, by method and seed."""


@dataclass(frozen=True)
class Video:
    """Learn Struct-VRNN, its ablations and baselines on simulated basketball, and foretell games that they never saw.

    Each run has a process of its own. Sequences and runs are kept in RUNS and are not made again; a run that was
    interrupted is taken up where it was.
    """

    methods: tuple[Method, ...] = METHODS
    """The full model, and what the paper compares it with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; the sequences are the same for all."""
    sequences: int = 10_000
    """To learn from."""
    test_sequences: int = 1_000
    """To foretell."""
    frames: int = 50
    """Of each sequence."""
    keypoints: int = 12
    """K, more than the six things that move."""
    code_steps: int | None = None
    """Optimiser steps of the code; those of the `fast` preset, if not given."""
    steps: int | None = None
    """Optimiser steps of the dynamics; those of the `fast` preset, if not given."""
    start: bool = True
    """Let keypoints begin on what moves, as the `fast` preset does and the paper does not."""
    predicted: int = 16
    """Steps to foretell after the 8 frames that are observed; 8 are foretold in training."""
    samples: int = 50
    """Futures of each test sequence, of which the best counts."""
    painted: int = 16
    """Test sequences whose futures are painted, for SSIM and PSNR."""
    painted_samples: int = 100
    """Futures of each of these."""
    vgg_weights: Path | None = None
    """VGG-16 as a safetensors file, for VGG cosine similarity, which is left out without."""
    i3d_weights: Path | None = None
    """I3D as a safetensors file, for FVD, which is left out without."""
    videos: int = 256
    """Test sequences that FVD is measured on, with one future each."""
    heatmap: int | None = None
    """Steps of the code for each of 16 more trainings, of a heatmap over separation and sparsity; none, if not given."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/video")
    """Folder of sequences and runs."""
    pictures: Path | None = None
    """Folder for curves, bars, futures and the heatmap; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.errors import UsageError

        self._check()
        plan: dict[str, dict[int, Run]] = {
            method: {seed: self.plan(method, seed) for seed in self.seeds} for method in self.methods
        }
        cells = self.plan_heatmap()
        if self.finished:
            plan = {method: done for method, runs in plan.items() if (done := _done(runs))}
            cells = _done(cells)
            if not plan:
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        networks = {
            name: {method: {seed: make(run) for seed, run in runs.items()} for method, runs in plan.items()}
            for name, make, weights in (("vgg", self._plan_vgg, self.vgg_weights), ("fvd", self._plan_fvd, self.i3d_weights))
            if weights is not None
        }
        trainings = list(_runs(plan))
        # Those that take over a code come when it is finished, and those that need a model when it is there.
        stages = [
            [run for run in trainings if run.arguments["code_from"] is None],
            [run for run in trainings if run.arguments["code_from"] is not None],
            list(cells.values()),
            [run for named in networks.values() for run in _runs(named)],
        ]
        for run in itertools.chain(*stages):
            if run.done:
                run.result()
        if self.pictures is not None or any(not run.done for run in itertools.chain(*stages)):
            self._make_sequences(say)
        for stage in stages:
            run_all(stage, jobs=self.jobs, threads=self.threads, say=say)

        measurement = Measurement("video", self._command())
        results = {method: {seed: run.result() for seed, run in runs.items()} for method, runs in plan.items()}
        seen = {
            name: {method: [run.result() for run in runs.values()] for method, runs in named.items()}
            for name, named in networks.items()
        }
        heat = {cell: run.result() for cell, run in cells.items()}
        add_figures(measurement, results)
        add_network_figures(measurement, seen, self.videos)
        add_heatmap(measurement, heat)
        result = measurement.result()
        if self.pictures is not None:
            self._draw(self.pictures, results, heat)
        return result

    def plan(self, method: str, seed: int) -> Run:
        """The run of one seed of one method."""
        from kpagent.benchmarks.runs import Run
        from kpagent.dynamics.learning import LearningConfig
        from kpagent.training import describe

        folder, config = self._folder(method, seed), self._model(method)
        # The first with the same code, whose runs come before those that only differ in dynamics.
        giver = next(other for other in METHODS if self._model(other).code == config.code)
        base = LearningConfig.fast()
        learning = replace(
            base,
            start=base.start if self.start else None,
            code=replace(base.code, seed=seed, steps=base.code.steps if self.code_steps is None else self.code_steps),
            dynamics=replace(base.dynamics, seed=seed, steps=base.dynamics.steps if self.steps is None else self.steps),
        )
        arguments = {
            "method": method,
            "seed": seed,
            "folder": str(folder),
            "training": str(self._training),
            "test": str(self._test),
            "model": describe(config),
            "learning": describe(learning),
            "predicted": self.predicted,
            "samples": self.samples,
            "painted": self.painted,
            "painted_samples": self.painted_samples,
            "code_from": None if giver == method else str(self._folder(giver, seed)),
            "device": self.device,
        }
        return Run(f"{_RUNS}:learn_video", arguments, folder / "result.json")

    def plan_heatmap(self) -> dict[tuple[float, float], Run]:
        """A run of the code of the full model for each pair of weights, of separation and of sparsity."""
        from kpagent.benchmarks.runs import Run
        from kpagent.training import describe

        if self.heatmap is None:
            return {}
        seed, config, cells = self.seeds[0], self._model(FULL), {}
        base = self.plan(FULL, seed).arguments
        learning = base["learning"] | {"code": base["learning"]["code"] | {"steps": self.heatmap}}
        for separation, sparsity in itertools.product(WEIGHTS, WEIGHTS):
            folder = self.runs / "heatmap" / f"separation_{separation:g}" / f"sparsity_{sparsity:g}" / f"seed_{seed}"
            model = describe(replace(config, code=replace(config.code, separation=separation, sparsity=sparsity)))
            same = {name: base[name] for name in ("seed", "training", "test", "device")}
            length = config.dynamics.observed + self.predicted
            arguments = same | {"folder": str(folder), "model": model, "learning": learning, "length": length}
            cells[separation, sparsity] = Run(f"{_RUNS}:learn_code", arguments, folder / "result.json")
        return cells

    def _plan_vgg(self, run: Run) -> Run:
        same = ("folder", "test", "predicted", "painted", "painted_samples", "device")
        return _on_model(run, "look_alike", "vgg.json", same, weights=str(self.vgg_weights))

    def _plan_fvd(self, run: Run) -> Run:
        same = ("folder", "test", "predicted", "device")
        return _on_model(run, "move_alike", "fvd.json", same, weights=str(self.i3d_weights), videos=self.videos)

    def _model(self, method: str) -> StructVRNNConfig:
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.dynamics.methods import method_config

        return method_config(method, StructVRNNConfig.fast(self.keypoints))

    def _folder(self, method: str, seed: int) -> Path:
        return self.runs / method / f"seed_{seed}"

    @property
    def _training(self) -> Path:
        return self.runs / "basketball.h5"

    @property
    def _test(self) -> Path:
        return self.runs / "basketball_test.h5"

    def _make_sequences(self, say: Callable[[str], None]) -> None:
        from kpagent.collect.sequence_making import write_sequences
        from kpagent.envs.basketball import Basketball, BasketballConfig

        config = BasketballConfig(frames=self.frames)
        for path, count, seed in (
            (self._training, self.sequences, TRAINING_SEED),
            (self._test, self.test_sequences, TEST_SEED),
        ):
            if not path.exists():
                say(f"{path}: making {count} sequences")
            write_sequences(path, Basketball(count, seed, config), resume=True)

    def _check(self) -> None:
        from kpagent.envs.basketball import NAMES, BasketballConfig
        from kpagent.errors import UsageError
        from kpagent.evaluation.i3d import SMALLEST_LENGTH
        from kpagent.evaluation.perceptual import load_i3d, load_vgg
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "methods must be given, each once": bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            "sequences must be at least 10": self.sequences >= 10,
            "test_sequences must be at least 1": self.test_sequences >= 1,
            f"keypoints must be at least {len(NAMES)}, one for each thing": self.keypoints >= len(NAMES),
            "predicted must be at least 1": self.predicted >= 1,
            "samples must be at least 2": self.samples >= 2,
            "painted must be at least 1": self.painted >= 1,
            "painted_samples must be at least 1": self.painted_samples >= 1,
            "videos must be at least 2": self.videos >= 2,
            "heatmap must be at least 1": self.heatmap is None or self.heatmap >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        BasketballConfig(frames=self.frames)
        dynamics = self._model(FULL).dynamics
        needed = dynamics.observed + max(dynamics.predicted, self.predicted)
        if self.frames < needed:
            raise UsageError(f"frames must be at least {needed}, those observed and those foretold; got {self.frames}")
        for method in self.methods:
            self.plan(method, self.seeds[0])
        pick_device(self.device)
        if self.vgg_weights is not None:
            load_vgg(self.vgg_weights)
        if self.i3d_weights is not None:
            if self.predicted < SMALLEST_LENGTH:
                raise UsageError(f"predicted must be at least {SMALLEST_LENGTH} for FVD; got {self.predicted}")
            if self.test_sequences < 2:
                raise UsageError(f"test_sequences must be at least 2 for FVD; got {self.test_sequences}")
            load_i3d(self.i3d_weights)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "video.png", ".png")

    def _command(self) -> str:
        parts = ["kpagent bench video --methods", *self.methods, "--seeds", *map(str, self.seeds)]
        default = {field.name: field.default for field in dataclasses.fields(self)}
        left_out = ("methods", "seeds", "start", "jobs", "threads", "finished", "runs", "pictures", "device", "out")
        always = ("sequences", "test_sequences", "predicted", "samples")
        for name, usual in default.items():
            value = getattr(self, name)
            if name not in left_out and (name in always or value != usual):
                parts += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
        flags = {"--no-start": not self.start, "--finished": self.finished}
        return " ".join([*parts, *(flag for flag, given in flags.items() if given)])

    def _draw(self, folder: Path, results: Results, heat: Mapping[tuple[float, float], Mapping[str, Any]]) -> None:
        from kpagent.benchmarks.video_evaluation import paint_futures
        from kpagent.benchmarks.video_figures import (
            draw_detectors,
            draw_errors,
            draw_heatmap,
            draw_quality,
            draw_samples,
        )
        from kpagent.benchmarks.video_runs import load_model
        from kpagent.collect.sequences import Sequences

        seeds = {method: list(found.values()) for method, found in results.items()}
        draw_errors(folder / "video_errors.png", _curves(results), trained=seeds[next(iter(seeds))][0]["learned"])
        draw_detectors(folder / "video_detectors.png", {method: _detected(found) for method, found in seeds.items()})
        draw_quality(folder / "video_quality.png", {m: [each["images"] for each in found] for m, found in seeds.items()})
        test = Sequences(self._test)
        for method, found in results.items():
            model = load_model(self._folder(method, next(iter(found))), self.device)
            futures, truth = next(paint_futures(model, test, self.predicted, 1, self.painted_samples))
            before = test.ordered(model.config.dynamics.observed + self.predicted, 1)["frames"][0, : -self.predicted]
            draw_samples(folder / f"video_samples_{method}.png", before, truth, futures)
        if heat:
            draw_heatmap(folder / "video_heatmap.png", WEIGHTS, heat)


def add_figures(measurement: Measurement, results: Results) -> None:
    """Add the figures of all methods, of the constant predictor, and those that compare them with the full model.

    Args:
        measurement: is added to.
        results: of the runs.
    """
    from kpagent.envs.basketball import NAMES

    add = partial(_add, measurement)
    for method, errors in _curves(results).items():
        for step, values in enumerate(np.transpose(errors).tolist(), 1):
            add(f"{method}/trajectory_error@{step}", values, _OF_WIDTH)
        add(f"{method}/trajectory_error_mean", [float(np.mean(each)) for each in errors], _OF_WIDTH)
    for method, seeds in results.items():
        found = list(seeds.values())
        add(f"{method}/detector_error", _detected(found), _OF_WIDTH)
        for index, name in enumerate(NAMES):
            add(f"{method}/detector_error/{name}", [each["detector_error"][index] for each in found], _OF_WIDTH)
        if all(each["found"] is not None for each in found):
            add(f"{method}/objects_found", [float(sum(each["found"])) for each in found], f"of {len(NAMES)}")
        last = len(found[0]["trajectory_error"])
        add(f"{method}/diversity@{last}", [each["diversity"][-1] for each in found], _OF_WIDTH)
        for score, unit in (("ssim", ""), ("psnr", "dB")):
            for kind, suffix in (("mean", ""), ("closest", "_closest"), ("furthest", "_furthest")):
                values = [each["images"][score][kind][-1] for each in found]
                add(f"{method}/{score}{suffix}@{last}", values, unit)
        for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB")):
            add(f"{method}/{key}", [float(each["spent"][key]) for each in found], unit)
    if FULL in results:
        _add_ratios(measurement, results)


def add_network_figures(measurement: Measurement, found: Mapping[str, Mapping[str, list[Any]]], videos: int) -> None:
    """Add VGG cosine similarity and FVD, where they were measured.

    Args:
        measurement: is added to.
        found: for `vgg` and `fvd`, and each method, one result for each seed.
        videos: that FVD was measured on.
    """
    for method, seeds in found.get("vgg", {}).items():
        for kind, suffix in (("mean", ""), ("closest", "_closest"), ("furthest", "_furthest")):
            _add(measurement, f"{method}/vgg{suffix}@{len(seeds[0][kind])}", [each[kind][-1] for each in seeds], "")
    for method, distances in found.get("fvd", {}).items():
        _add(measurement, f"{method}/fvd", distances, f"of {videos} videos")


def add_heatmap(measurement: Measurement, heat: Mapping[tuple[float, float], Mapping[str, Any]]) -> None:
    """Add the cells of the heatmap.

    Args:
        measurement: is added to.
        heat: what `learn_code` returned, by the weights of separation and sparsity.
    """
    from kpagent.envs.basketball import NAMES

    for (separation, sparsity), cell in heat.items():
        path = f"basketball/heatmap/separation_{separation:g}/sparsity_{sparsity:g}"
        measurement.add(f"{path}/detector_error", float(np.mean(cell["detector_error"])), _OF_WIDTH)
        measurement.add(f"{path}/objects_found", float(sum(cell["found"])), f"of {len(NAMES)}")


def _add(measurement: Measurement, name: str, values: list[float], unit: str) -> None:
    """A figure with its seeds, and an interval where there are several."""
    from kpagent.evaluation.scores import mean_interval

    interval = mean_interval(values) if len(values) > 1 else None
    measurement.add(f"basketball/{name}", float(np.mean(values)), unit, per_seed=values, ci95=interval)


def _add_ratios(measurement: Measurement, results: Results) -> None:
    """The full model's error by that of each other, in the mean over the seeds that both have."""
    full = results[FULL]
    anyone = next(iter(full.values()))
    steps = sorted({min(anyone["learned"], len(anyone["trajectory_error"])), len(anyone["trajectory_error"])})
    others = {CONSTANT: (full, "constant_error")}
    others |= {method: (seeds, "trajectory_error") for method, seeds in results.items() if method != FULL}
    for name, (seeds, key) in others.items():
        shared = [seed for seed in full if seed in seeds]
        for step in steps if shared else ():
            ours = np.mean([full[seed]["trajectory_error"][step - 1] for seed in shared])
            theirs = np.mean([seeds[seed][key][step - 1] for seed in shared])
            measurement.add(f"basketball/{name}/ratio@{step}", float(ours / theirs), "")


def _curves(results: Results) -> dict[str, list[list[float]]]:
    """Errors at each step, for each seed of each method; those of the constant predictor come last."""
    curves = {method: [each["trajectory_error"] for each in seeds.values()] for method, seeds in results.items()}
    kept = {CONSTANT: [each["constant_error"] for each in results[FULL].values()]} if FULL in results else {}
    return curves | kept


def _detected(found: Iterable[Mapping[str, Any]]) -> list[float]:
    return [float(np.mean(each["detector_error"])) for each in found]


def _runs(plan: Mapping[Any, Mapping[Any, Run]]) -> Iterable[Run]:
    return (run for runs in plan.values() for run in runs.values())


def _done(runs: Mapping[Any, Run]) -> dict[Any, Run]:
    return {key: run for key, run in runs.items() if run.done}


def _on_model(run: Run, function: str, name: str, same: tuple[str, ...], **more: Any) -> Run:
    """A run on the model of another, with a part of its arguments, beside it."""
    from kpagent.benchmarks.runs import Run

    arguments = {key: run.arguments[key] for key in same} | more
    return Run(f"{_RUNS}:{function}", arguments, run.path.with_name(name))
