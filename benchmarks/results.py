"""What a benchmark leaves behind: one JSON file with its figures, and what they were measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpagent.files import write_json

FIGURE = {"value", "ci95", "per_seed", "unit", "paper"}
RESULT = {"benchmark", "command", "commit", "date", "machine", "versions", "wall_s", "figures"}


class Measurement:
    """Gathers the figures of one run of a benchmark.

    Args:
        benchmark: its name, that of the file.
        command: the command line that does it again.
    """

    def __init__(self, benchmark: str, command: str) -> None:
        self.benchmark, self.command = benchmark, command
        self.started = time.monotonic()
        self.figures: dict[str, dict[str, Any]] = {}

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        per_seed: list[float] | None = None,
        ci95: tuple[float, float] | None = None,
        paper: float | None = None,
    ) -> None:
        """Add the figure `name`, a path such as pong/transporter/distance/ball.

        Args:
            name: what was measured.
            value: in `unit`.
            unit: "" for a ratio or a coordinate.
            per_seed: the values whose mean `value` is.
            ci95: 95% interval of `value`.
            paper: the published figure, if there is one.
        """
        figure: dict[str, Any] = {"value": float(value), "unit": unit}
        if per_seed is not None:
            figure["per_seed"] = [float(v) for v in per_seed]
        if ci95 is not None:
            figure["ci95"] = [float(v) for v in ci95]
        if paper is not None:
            figure["paper"] = float(paper)
        self.figures[name] = figure

    def result(self) -> dict[str, Any]:
        """The figures with commit, date, machine, versions and wall time."""
        return {
            "benchmark": self.benchmark,
            "command": self.command,
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": machine(),
            "versions": versions(),
            "wall_s": round(time.monotonic() - self.started, 1),
            "figures": self.figures,
        }


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write a result into `folder` under its benchmark's name; returns the path."""
    path = folder / f"{result['benchmark']}.json"
    write_json(path, result)
    return path


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on."""
    names = ("kpagent", "torch", "numpy", "gymnasium", "ale-py", "stable-baselines3", "opencv-python-headless")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def bootstrap_ci95(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean of `values` (N,), by the percentile bootstrap."""
    from scipy.stats import bootstrap

    interval = bootstrap((values,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(seed))
    return float(interval.confidence_interval.low), float(interval.confidence_interval.high)


def _commit() -> str | None:
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        code = [*git, "status", "--porcelain", "--", "..", ":!results"]
        changed = subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
