"""The picture of exploration: returns of random options and of random actions, after Transporter's Figure 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kpagent.files import replace_file

COLOURS = ("#0072B2", "#D55E00")
"""Of the two that are compared."""


def draw_returns(path: Path, games: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> None:
    """Above, mean and standard deviation of the return of an episode; below, each of its percentiles; a column a game.

    Means and deviations are over all episodes of a seed, and then over seeds, whose own means are dots. Percentiles are the
    mean over seeds, and their range.

    Args:
        path: PNG to write.
        games: the returns of each seed, by game and by what was played.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(games) + 0.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, len(games), squeeze=False)
    at = np.arange(101)
    for column, (game, compared) in enumerate(games.items()):
        bars, curves = rows[:, column]
        for place, ((label, seeds), colour) in enumerate(zip(compared.items(), COLOURS, strict=True)):
            means, deviations = [np.mean(scores) for scores in seeds], [np.std(scores) for scores in seeds]
            bars.bar(place, np.mean(means), yerr=np.mean(deviations), color=colour, capsize=4, error_kw={"linewidth": 1})
            bars.plot(np.full(len(means), place), means, "o", color="black", markersize=3)
            reached = np.array([np.percentile(scores, at) for scores in seeds])
            curves.plot(at, reached.mean(axis=0), color=colour, label=label)
            curves.fill_between(at, reached.min(axis=0), reached.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        bars.set_title(game)
        bars.set_xticks(range(len(compared)), list(compared))
        curves.set_xlabel("percentile of episodes")
        for panel in (bars, curves):
            panel.grid(axis="y", alpha=0.3)
            panel.set_axisbelow(True)
    rows[0, 0].set_ylabel("return, mean and deviation")
    rows[1, 0].set_ylabel("return")
    rows[1, 0].legend(loc="upper left", fontsize="small")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))
