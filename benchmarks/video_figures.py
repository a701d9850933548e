"""Pictures of the video benchmark, after Struct-VRNN's Figures 3 to 5, S1 and S6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.drawing import contact_sheet, write_png
from kpagent.dynamics.rollouts import OBSERVED, PREDICTED
from kpagent.envs.basketball import NAMES
from kpagent.evaluation.video import closest_and_furthest, ssim
from kpagent.files import replace_file

COLOURS = {
    "struct_vrnn": "#0072B2",
    "no_bom": "#56B4E9",
    "struct_rnn": "#009E73",
    "cnn_vrnn": "#D55E00",
    "no_separation": "#CC79A7",
    "no_sparsity": "#E69F00",
    "supervised": "#000000",
    "cnn_vrnn_supervised": "#882255",
    "constant": "#999999",
}
DASHED = ("supervised", "cnn_vrnn_supervised", "constant")
WANTED = 3.0
"""Percent of the court's width that a detector without labels is to stay under."""
_BORDER = 2


def draw_errors(path: Path, curves: Mapping[str, Sequence[Sequence[float]]], *, trained: int) -> None:
    """Trajectory error over predicted steps, the mean over seeds and their range (Figure 4).

    Args:
        path: PNG to write.
        curves: for each method, percent of the court's width at each step, for each seed.
        trained: steps that were foretold in training, after which a line is drawn.
    """
    figure, panels = _figure(1, 1, (6.4, 4.2))
    panel = panels[0, 0]
    for method, seeds in curves.items():
        _band(panel, method, np.array(seeds))
    if trained < max(len(seeds[0]) for seeds in curves.values()):
        panel.axvline(trained, color="black", linewidth=0.8, alpha=0.4)
    panel.set_xlabel("predicted step")
    panel.set_ylabel("error of the best sample, % of the court's width")
    panel.set_ylim(bottom=0)
    panel.legend(loc="upper left", fontsize="small")
    _save(path, figure)


def draw_detectors(path: Path, errors: Mapping[str, Sequence[float]]) -> None:
    """How far objects are from where the codes of the same frame put them: means as bars, seeds as dots (Figure 5).

    Args:
        path: PNG to write.
        errors: percent of the court's width, for each seed of each method.
    """
    figure, panels = _figure(1, 1, (1.1 * len(errors) + 1.2, 4.0))
    panel = panels[0, 0]
    for place, (method, seeds) in enumerate(errors.items()):
        panel.bar(place, np.mean(seeds), color=COLOURS.get(method), alpha=0.8)
        panel.plot(np.full(len(seeds), place), seeds, "o", color="black", markersize=3)
    panel.axhline(WANTED, color="black", linewidth=0.8, linestyle=":")
    panel.set_xticks(range(len(errors)), [method.replace("_", "\n") for method in errors], fontsize="small")
    panel.set_ylabel("error of detection, % of the court's width")
    _save(path, figure)


def draw_quality(path: Path, images: Mapping[str, Sequence[Mapping[str, Mapping[str, Sequence[float]]]]]) -> None:
    """SSIM and PSNR over predicted steps: above, of the closest of many samples; below, of the furthest (Figure S1).

    Args:
        path: PNG to write.
        images: for each seed of each method, what `image_figures` returned.
    """
    figure, panels = _figure(2, 2, (9.0, 6.4))
    for row, kind in enumerate(("closest", "furthest")):
        for column, score in enumerate(("ssim", "psnr")):
            panel = panels[row, column]
            for method, seeds in images.items():
                _band(panel, method, np.array([each[score][kind] for each in seeds]))
            panel.set_title(f"{score.upper()}, {kind} sample", fontsize="medium")
            if row:
                panel.set_xlabel("predicted step")
    panels[0, 0].legend(loc="lower left", fontsize="x-small")
    _save(path, figure)


def draw_samples(path: Path, before: np.ndarray, truth: np.ndarray, futures: np.ndarray) -> None:
    """What came, and below it the closest and the furthest of many futures by SSIM, time from left to right (Figure 3).

    Args:
        path: PNG to write.
        before: (T, H, W, 3) uint8, the frames that were observed.
        truth: (ΔT, H, W, 3) uint8, those that came.
        futures: (S, ΔT, H, W, 3) uint8, those that were foretold.
    """
    ends = closest_and_furthest(ssim(futures, truth[None])[None])
    rows = (truth, futures[ends.closest_sample[0]], futures[ends.furthest_sample[0]])
    cells = [
        _bordered(frame, colour)
        for row in rows
        for frames, colour in ((before, OBSERVED), (row, PREDICTED))
        for frame in frames
    ]
    write_png(path, contact_sheet(cells, columns=len(before) + len(truth), gap=2))


def draw_heatmap(path: Path, weights: Sequence[float], heat: Mapping[tuple[float, float], Mapping[str, Any]]) -> None:
    """Errors of detection over the weights of separation and sparsity, and objects with a keypoint (Figure S6).

    Args:
        path: PNG to write.
        weights: along both axes.
        heat: what `learn_code` returned, by the weights of separation and sparsity; a cell may be missing.
    """
    ball = NAMES.index("ball")
    panels_of = {
        "ball, % of the width": lambda cell: cell["detector_error"][ball],
        "players, % of the width": lambda cell: np.mean(np.delete(cell["detector_error"], ball)),
        f"things found, of {len(NAMES)}": lambda cell: sum(cell["found"]),
    }
    figure, panels = _figure(1, len(panels_of), (3.6 * len(panels_of), 4.2))
    ticks = [f"{weight:g}" for weight in weights]
    for panel, (title, value) in zip(panels[0], panels_of.items(), strict=True):
        table = np.array(
            [[value(heat[pair]) if (pair := (row, column)) in heat else np.nan for column in weights] for row in weights]
        )
        panel.grid(visible=False)
        panel.imshow(table, cmap="viridis")
        for (row, column), number in np.ndenumerate(table):
            if np.isfinite(number):
                box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0}
                panel.text(column, row, f"{number:.3g}", ha="center", va="center", fontsize="small", bbox=box)
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_yticks(range(len(ticks)), ticks)
        panel.set_xlabel("weight of sparsity")
        panel.set_title(title, fontsize="medium")
    panels[0, 0].set_ylabel("weight of separation")
    _save(path, figure)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    return figure, panels


def _band(panel: Any, method: str, seeds: np.ndarray) -> None:
    """The mean over seeds (R, T), and their range."""
    steps, colour = np.arange(1, seeds.shape[1] + 1), COLOURS.get(method)
    panel.plot(steps, seeds.mean(axis=0), "--" if method in DASHED else "-", color=colour, label=method)
    panel.fill_between(steps, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _bordered(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    height, width = frame.shape[:2]
    cell = np.empty((height + 2 * _BORDER, width + 2 * _BORDER, 3), np.uint8)
    cell[:] = colour
    cell[_BORDER:-_BORDER, _BORDER:-_BORDER] = frame
    return cell


def _save(path: Path, figure: Any) -> None:
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))
