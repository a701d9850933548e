"""Pictures of tracking: curves (Transporter Figure 4), each method's keypoints (Figure 2) and tracks (Figures 9 to 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.benchmarks.tracked_play import TrackedPlay
from kpagent.benchmarks.tracking import encode
from kpagent.drawing import add_caption, contact_sheet, draw_keypoints, write_png
from kpagent.files import replace_file

APART = 10
"""Frames between two of a track's pictures, as in Figures 9 to 12."""
HEIGHT = 420
"""Pixels that a frame's height is enlarged to, about."""
COLOURS = {"transporter": "#0072B2", "jakab": "#D55E00", "zhang": "#009E73", "pixels": "#CC79A7"}


def draw_curves(path: Path, result: Mapping[str, Any], lengths: Sequence[int]) -> None:
    """Precision and recall over the length of trajectories, the mean over seeds and their range, a column a game.

    Args:
        path: PNG to write.
        result: as `Tracking.run` returns it.
        lengths: of the trajectories.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = result["figures"]
    games = list(dict.fromkeys(name.split("/")[0] for name in figures))
    figure = Figure(figsize=(3 * len(games) + 0.6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(games), sharex=True, sharey=True, squeeze=False)
    for column, game in enumerate(games):
        methods = dict.fromkeys(name.split("/")[1] for name in figures if name.startswith(f"{game}/"))
        for row, measure in enumerate(("precision", "recall")):
            panel = axes[row, column]
            for method in methods:
                seeds = np.array([figures[f"{game}/{method}/{measure}@{length}"]["per_seed"] for length in lengths])
                colour = COLOURS.get(method)
                panel.plot(lengths, seeds.mean(axis=1), marker="o", markersize=3, label=method, color=colour)
                panel.fill_between(lengths, seeds.min(axis=1), seeds.max(axis=1), alpha=0.2, linewidth=0, color=colour)
            panel.set_ylim(-0.02, 1.02)
            panel.grid(alpha=0.3)
            if row == 0:
                panel.set_title(game)
            else:
                panel.set_xlabel("frames of a trajectory")
            if column == 0:
                panel.set_ylabel(measure)
    axes[0, -1].legend(loc="lower right", fontsize="small")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def draw_methods(path: Path, play: Sequence[TrackedPlay], detectors: Mapping[str, Any], *, frames: int = 4) -> None:
    """The keypoints of each method on the same frames, a row a method (Figure 2).

    Args:
        path: PNG to write.
        play: the frames come from the middle of as many stretches.
        detectors: perception models, by method.
        frames: columns.
    """
    chosen = np.stack([stretch.frames[len(stretch.frames) // 2] for stretch in play[:frames]])
    shown = []
    for method, model in detectors.items():
        shown += [add_caption(frame, method) for frame in _drawn(chosen, model)]
    write_png(path, contact_sheet(shown, columns=len(chosen)))


def draw_track(path: Path, play: Sequence[TrackedPlay], model: Any, *, frames: int = 8) -> None:
    """The keypoints of one model on one episode, every tenth frame (Figures 9 to 12).

    Args:
        path: PNG to write.
        play: its first stretch is shown.
        model: a perception model.
        frames: pictures, as far as the stretch has them.
    """
    times = range(0, len(play[0].frames), APART)[:frames]
    chosen = play[0].frames[list(times)]
    captioned = [add_caption(frame, f"frame {time}") for frame, time in zip(_drawn(chosen, model), times, strict=True)]
    write_png(path, contact_sheet(captioned, columns=4))


def _drawn(frames: np.ndarray, model: Any) -> list[np.ndarray]:
    scale = max(1, HEIGHT // frames.shape[1])
    return [draw_keypoints(frame, xy, scale=scale) for frame, xy in zip(frames, encode(model, frames), strict=True)]
