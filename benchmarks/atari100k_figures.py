"""Pictures of Atari 100k: human-normalised scores as bars, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpagent.files import replace_file

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

COLOURS = {
    "KeyQN": "#0072B2",
    "DQN on pixels": "#D55E00",
    "PPO on pixels": "#CC79A7",
    "PPO on keypoints": "#009E73",
}
"""Of methods measured here, by their labels; what is published is grey."""
GREY = "#BBBBBB"


@dataclass(frozen=True)
class Bar:
    """A score, as a bar."""

    label: str
    """The method; published ones say so."""
    value: float
    """Human-normalised score."""
    interval: tuple[float, float] | None = None
    """Its 95% interval, where it is known."""
    published: bool = False
    """Whether others published it; if not, it was measured here."""


@dataclass(frozen=True)
class Curve:
    """Scores of one method in the course of learning."""

    label: str
    """The method."""
    interactions: np.ndarray
    """(N,), rising."""
    scores: np.ndarray
    """(S, N), a row a seed; NaN where nothing was measured."""

    def __post_init__(self) -> None:
        if self.interactions.ndim != 1 or self.scores.shape != (len(self.scores), len(self.interactions)):
            raise ValueError(f"scores must be (S, N) for interactions (N,), not {self.scores.shape}")

    @classmethod
    def of_games(cls, label: str, seeds: Sequence[Sequence[Sequence[float]]], interactions: int, points: int = 20) -> Curve:
        """The mean score of the training games that ended in each of `points` equal stretches.

        Args:
            label: the method.
            seeds: for each seed its games, (interactions so far, score), as `peers.train_peer` returns them.
            interactions: of the training.
            points: stretches; where no game ended in one, the seed has no score there.
        """
        edges = np.linspace(0, interactions, points + 1)
        scores = np.full((len(seeds), points), np.nan)
        for row, games in zip(scores, seeds, strict=True):
            at, score = np.array(games, np.float64).reshape(-1, 2).T
            for point in range(points):
                ended = (at > edges[point]) & (at <= edges[point + 1])
                if ended.any():
                    row[point] = score[ended].mean()
        return cls(label, edges[1:], scores)


def draw_bars(path: Path, panels: Mapping[str, Sequence[Bar]]) -> None:
    """Bars with their 95% intervals, a panel a game (and one for all of them), a row a method.

    What was published is grey and hatched, and named so. A dotted line at 1 is a human, where the bars come near it.

    Args:
        path: PNG to write.
        panels: by title. Panels need not have the same methods; rows are in the order in which they first come.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [bar for shown in panels.values() for bar in shown]
    rows = {name: row for row, name in enumerate(dict.fromkeys(_name(bar) for bar in bars))}
    figure = Figure(figsize=(2.6 * len(panels) + 1.6, 0.32 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (title, shown) in zip(axes, panels.items(), strict=True):
        for bar in shown:
            colour = GREY if bar.published else COLOURS.get(bar.label, "#444444")
            row = rows[_name(bar)]
            panel.barh(row, bar.value, height=0.75, color=colour, hatch="///" if bar.published else None, edgecolor="white")
            if bar.interval is not None:
                panel.plot(bar.interval, (row, row), color="black", linewidth=1.2)
        panel.axvline(0, color="black", linewidth=0.8)
        # Where all are far from a human, the line stays outside and bars keep their length.
        panel.autoscale(False)
        panel.axvline(1, color="black", linewidth=0.8, linestyle=":")
        panel.set_title(title)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].invert_yaxis()
    figure.supxlabel("human-normalised score (dotted line: human)", fontsize="medium")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def draw_curves(path: Path, panels: Mapping[str, Sequence[Curve]]) -> None:
    """Scores over interactions, the mean over seeds and their range, a panel a game.

    Args:
        path: PNG to write.
        panels: by game.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(panels) + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    lines: dict[str, Line2D] = {}
    for panel, (game, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            colour = COLOURS.get(curve.label)
            measured = ~np.isnan(curve.scores).all(axis=0)
            at, scores = curve.interactions[measured] / 1000, curve.scores[:, measured]
            (line,) = panel.plot(at, np.nanmean(scores, axis=0), marker="o", markersize=3, label=curve.label, color=colour)
            low, high = np.nanmin(scores, axis=0), np.nanmax(scores, axis=0)
            panel.fill_between(at, low, high, alpha=0.2, linewidth=0, color=line.get_color())
            lines.setdefault(curve.label, line)
        panel.set_title(game)
        panel.set_xlabel("thousand interactions")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("score")
    axes[-1].legend(list(lines.values()), list(lines), loc="best", fontsize="small")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def _name(bar: Bar) -> str:
    return f"{bar.label}, published" if bar.published else bar.label
