"""Pictures of the planning benchmark: success and error as bars, and one task as each method does it (Figures 8 and 11)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.benchmarks.planning_methods import METHODS, UPPER_BOUNDS

if TYPE_CHECKING:
    import numpy as np

    from kpagent.envs.pushing.tasks import PushingTask

COLOURS = {"ordinary": "#8fb8de", "hard": "#1f4e79"}
"""Of the groups of tasks."""


def draw_bars(path: Path, figures: Mapping[str, Any]) -> None:
    """Success and position error of every method, ordinary and hard tasks side by side, with 95% intervals.

    Args:
        path: ends in .png.
        figures: of the benchmark.
    """
    from matplotlib.figure import Figure

    from kpagent.files import replace_file

    methods = [method for method in METHODS if f"{method}/all/success" in figures]
    figure = Figure(figsize=(1.2 + 1.05 * len(methods), 5.5), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(2, 1, sharex=True), ("success", "position_error"), ("success", "error at the end"), strict=True
    ):
        for place, (group, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
            for number, method in enumerate(methods):
                found = figures.get(f"{method}/{group}/{name}")
                if found is None:
                    continue
                low, high = found["ci95"]
                error = [[max(found["value"] - low, 0)], [max(high - found["value"], 0)]]
                axes.bar(number + place, found["value"], 0.38, yerr=error, color=colour, label=group, capsize=2)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(shown.values(), shown.keys(), frameon=False)
    names = [f"{method}\n(upper bound)" if method in UPPER_BOUNDS else method for method in methods]
    axes.set_xticks(range(len(methods)), [name.replace("_", " ") for name in names], fontsize=8)
    replace_file(path, lambda beside: figure.savefig(beside, dpi=120))


def draw_execution(arguments: Mapping[str, Any], seed: int, task: PushingTask) -> np.ndarray:
    """One task as a method does it, as of `agents.reaching.draw_plan`.

    Args:
        arguments: of a run of that method.
        seed: of the run.
        task: what to do.
    """
    from kpagent.agents.reaching import draw_plan
    from kpagent.benchmarks.planning_runs import Player, describe_task

    player = Player(arguments["method"], seed, Path(arguments["models"]), arguments["servoing"])
    try:
        return draw_plan(list(player.moments(describe_task(task))))
    finally:
        player.close()
