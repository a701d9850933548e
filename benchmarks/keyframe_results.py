"""The figures of the keyframes benchmark, from what its runs returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kpagent.benchmarks.keyframe_methods import PAPER, SEARCHED, learns_from
from kpagent.benchmarks.results import Measurement
from kpagent.evaluation.scores import mean_interval

Results = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
"""What `learn_keyframes` or `place_keyframes` returned, by dataset and method, and seed."""


def add_figures(measurement: Measurement, results: Results) -> None:
    """Add the figures of all methods, beside the paper's F1.

    Args:
        measurement: is added to.
        results: of the runs.
    """
    for (dataset, method), seeds in results.items():
        each, paper = list(seeds.values()), PAPER[dataset].get(method)
        unit = "squared error of a pixel" if learns_from(method) == "frames" else "image widths"
        units = {"reconstruction": unit, "wall_s": "s", "cpu_s": "s", "peak_memory_mb": "MB"}
        for part, suffix in (("found", ""), ("searched", SEARCHED), ("sides", ""), ("spent", "")):
            for name in each[0].get(part, {}):
                values = [float(result[part][name]) for result in each]
                beside = paper if (part, name) == ("found", "f1") else None
                _add(measurement, f"{dataset}/{method}{suffix}/{name}", values, units.get(name, ""), beside)
        if "step_ms" in each[0]:
            _add(measurement, f"{dataset}/{method}/step_ms", [float(result["step_ms"]) for result in each], "ms")


def add_code_figures(measurement: Measurement, dataset: str, found: list[Mapping[str, Any]]) -> None:
    """Add how near keypoints are to what they are to follow, and what learning them has cost.

    Args:
        measurement: is added to.
        dataset: its name.
        found: what `learn_code` returned, for each seed.
    """
    for part, unit in (("distance", "image widths"), ("spent", "")):
        units = {"wall_s": "s", "cpu_s": "s", "peak_memory_mb": "MB"}
        for name in found[0][part] if found else ():
            path = f"{dataset}/code/{'distance_' if part == 'distance' else ''}{name}"
            _add(measurement, path, [float(each[part][name]) for each in found], units.get(name, unit))


def _add(measurement: Measurement, name: str, values: list[float], unit: str, paper: float | None = None) -> None:
    """A figure with its seeds, and an interval where there are several."""
    interval = mean_interval(values) if len(values) > 1 else None
    measurement.add(name, float(np.mean(values)), unit, per_seed=values, ci95=interval, paper=paper)
