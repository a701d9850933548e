"""Pictures of the rewards benchmark, after Struct-VRNN's Figure 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.evaluation.scores import mean_interval
from kpagent.files import replace_file

COLOURS = {"struct_vrnn": "#0072B2", "cnn_vrnn": "#D55E00"}
_COLUMNS = 3

Curves = Mapping[str, Sequence[Mapping[str, Sequence[float]]]]
"""For each task and seed, `observed` and `imagined`: errors at each frame, as shares of the null model's."""


def draw_errors(path: Path, curves: Mapping[str, Curves], *, first_imagined: int) -> None:
    """Error over frames, a panel for each task: the mean over seeds and its 95% interval; dashed where frames are imagined.

    Args:
        path: PNG to write.
        curves: by method.
        first_imagined: number of the first imagined frame among those with a reward, from 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(next(iter(curves.values())))
    columns = min(_COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for number, panel in enumerate(panels.flat):
        if number >= len(tasks):
            panel.set_visible(False)
            continue
        task = tasks[number]
        panel.grid(alpha=0.3)
        panel.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
        for method, of in curves.items():
            colour = COLOURS.get(method, "#0072B2")
            observed, imagined = (np.array([each[kind] for each in of[task]]) for kind in ("observed", "imagined"))
            _band(panel, observed, 1, "-", colour, method)
            _band(panel, imagined, 1 + first_imagined, "--", colour, f"{method}, imagined")
        panel.set_title(task, fontsize="medium")
        panel.set_ylim(bottom=0)
        if number >= len(tasks) - columns:
            panel.set_xlabel("frame")
        if number % columns == 0:
            panel.set_ylabel("error by that of the mean")
    panels[0, 0].legend(fontsize="x-small")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def _band(panel: Any, seeds: np.ndarray, first: int, line: str, colour: str, label: str) -> None:
    """The mean over seeds (R, T) and, of several, its 95% interval."""
    frames = np.arange(first, first + seeds.shape[1])
    panel.plot(frames, seeds.mean(axis=0), line, color=colour, label=label)
    if len(seeds) > 1:
        low, high = np.transpose([mean_interval(column) for column in seeds.T])
        panel.fill_between(frames, low, high, color=colour, alpha=0.2, linewidth=0)
