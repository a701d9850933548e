"""Pictures of the keyframes benchmark: F1 beside that of the paper, and what models find and sample (Figures 4 to 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.benchmarks.keyframe_codes import Codes
from kpagent.benchmarks.keyframe_evaluation import sampled_paths
from kpagent.benchmarks.keyframe_methods import DATASETS, METHODS, SEARCHED, UPPER_BOUND
from kpagent.benchmarks.keyframe_runs import find_puck, load_model
from kpagent.collect.sequences import Sequences
from kpagent.drawing import write_png
from kpagent.files import replace_file
from kpagent.subgoals.explanations import time_map
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.pictures import Strip, draw_keyframes, draw_samples, draw_ways

if TYPE_CHECKING:
    from kpagent.subgoals.keyframe_model import KeyframeModel

FOUND, NEAR, WALL, START = "#0072B2", "#56B4E9", "#0072B2", "#CC79A7"
SEQUENCES, SAMPLES, SCENES, PATHS = 3, 10, 4, 100
"""Test sequences in a picture, samples of the first, scenes with samples, and samples of each of these (Figure 6)."""


def draw_scores(path: Path, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """F1 of all methods by exact frame and within one, seeds as dots and the paper's F1 as crosses (Table 1).

    Args:
        path: PNG to write.
        figures: of the result.
    """
    names = [name for method in METHODS for name in (method, f"{method}{SEARCHED}")]
    rows = {
        dataset: found for dataset in DATASETS if (found := [name for name in names if f"{dataset}/{name}/f1" in figures])
    }
    figure, panels = _figure(len(rows), (0.5 * max(map(len, rows.values())) + 3, 4.4 * len(rows)))
    for panel, (dataset, methods) in zip(panels, rows.items(), strict=True):
        for place, method in enumerate(methods):
            near, exact = (figures[f"{dataset}/{method}/{name}"] for name in ("f1_tolerance1", "f1"))
            panel.bar(place, near["value"], color=NEAR, label="within one frame" if not place else None)
            panel.bar(place, exact["value"], width=0.5, color=FOUND, label="exact frame" if not place else None)
            panel.plot([place] * len(exact["per_seed"]), exact["per_seed"], "o", color="black", markersize=3)
            if "paper" in exact:
                panel.plot(place, exact["paper"], "x", color="red", label="the paper's" if method == "keyin" else None)
        labels = [name + (" (upper bound)" if name.startswith(UPPER_BOUND) else "") for name in methods]
        panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize="small")
        panel.set_ylim(0, 1)
        panel.set_ylabel("F1")
        panel.set_title(dataset, fontsize="medium")
        panel.legend(loc="upper right", fontsize="x-small")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def draw_model(folder: Path, name: str, arguments: Mapping[str, Any]) -> None:
    """Keyframes that a model finds, frames that it makes between them, and samples from its prior.

    Writes `keyframes_NAME.png` (Figures 4 and 7), of a KeyIn `keyframes_NAME_samples.png` (Figure 5), and where there is a
    wall `keyframes_NAME_ways.png` (Figure 6).

    Args:
        folder: of the pictures.
        name: of dataset and method.
        arguments: of the finished run, as of `learn_keyframes`.
    """
    model, true = load_model(arguments), Codes.load(arguments["truth"])
    test = Sequences(arguments["test"])
    frames = test.ordered(model.config.length, max(SEQUENCES, SCENES))["frames"]
    codes = None if arguments["codes"] is None else Codes.load(arguments["codes"])
    seen = frames if codes is None else codes.test[: len(frames)]
    rows = [_found(model, frames[n], seen[n : n + 1], true.keyframes[n]) for n in range(min(SEQUENCES, len(frames)))]
    write_png(folder / f"keyframes_{name}.png", np.concatenate(rows))
    if not isinstance(model, KeyIn):
        return
    write_png(folder / f"keyframes_{name}_samples.png", _sampled(model, frames[0], seen[:1]))
    scenes = slice(min(SCENES, len(frames)))
    walls = true.walls(true.test[scenes])
    if codes is not None and walls is not None:
        paths = sampled_paths(model, codes.test[scenes], find_puck(codes, true), PATHS)
        pucks = true.places(true.test[scenes], "puck")
        draw_paths(folder / f"keyframes_{name}_ways.png", paths, walls, pucks[:, model.config.given - 1 :])


def draw_paths(path: Path, paths: np.ndarray, walls: np.ndarray, true: np.ndarray) -> None:
    """Scenes with all sampled ways of the puck, and below them the demonstrations (Figure 6).

    Args:
        path: PNG to write.
        paths: (N, samples, L, 2) in [-1, 1].
        walls: (N, 2, 2), ends of the wall.
        true: (N, L, 2), ways of the puck in the demonstrations.
    """
    figure, panels = _figure(2 * len(paths), (2.4 * len(paths), 4.8), rows=2)
    for number, (ways, wall, demonstration) in enumerate(zip(paths, walls, true, strict=True)):
        for row, lines in enumerate((ways, demonstration[None])):
            panel = panels[row * len(paths) + number]
            panel.plot(*lines.transpose(2, 1, 0), color="black", linewidth=0.8, alpha=0.3 if len(lines) > 1 else 1)
            panel.plot(*wall.T, color=WALL, linewidth=3)
            panel.plot(*demonstration[0], "o", color=START)
            panel.set(xlim=(-1, 1), ylim=(1, -1), aspect="equal", xticks=[], yticks=[])
    panels[0].set_ylabel("samples")
    panels[len(paths)].set_ylabel("demonstration")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))


def _found(model: KeyframeModel, frames: np.ndarray, seen: np.ndarray, true: np.ndarray) -> np.ndarray:
    """One sequence with its keyframes, and as it is made again."""
    given, turns = model.config.given, np.flatnonzero(true)
    if not isinstance(model, KeyIn):
        return draw_keyframes(frames, model.discover(seen)[0], turns)  # type: ignore[operator]
    keyframes = model.discover(seen)
    times = time_map(keyframes, given)[0]
    numbers, made = keyframes.inside()[0], model.interpolate(keyframes)[0]
    if model.config.codec.kind == "frames":
        again = Strip("made again", model.render(made), numbers, turns, start=given)
        return draw_keyframes(frames, numbers, turns, times=times, below=[again])
    points = made.cpu().numpy().reshape(len(made), -1, 2)
    again = Strip("made again", frames[given:], numbers, turns, points, start=given)
    own = seen[0].reshape(len(frames), -1, 2)
    return draw_keyframes(frames, numbers, turns, keypoints=own, times=times, below=[again])


def _sampled(model: KeyIn, frames: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Ways to go on, each in one picture."""
    given = model.config.given
    ways = model.sample(seen[:, :given], SAMPLES)
    made, start = model.interpolate(ways)[0], given - 1
    numbers = [row - start for row in ways.inside()]
    if model.config.codec.kind == "frames":
        first = np.broadcast_to(frames[start], (SAMPLES, 1, *frames.shape[1:]))
        return draw_samples(np.concatenate([first, model.render(made)], axis=1), numbers)
    points = np.concatenate([ways.first[0].cpu().numpy()[:, None], made.cpu().numpy()], axis=1)
    return draw_ways(frames[start], points.reshape(*points.shape[:2], -1, 2), numbers)


def _figure(count: int, size: tuple[float, float], rows: int | None = None) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    rows = count if rows is None else rows
    return figure, figure.subplots(rows, count // rows, squeeze=False).ravel()
