"""Pictures of the recognition benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.dynamics.recognition_accuracy import Confusion
from kpagent.files import replace_file


def draw_confusion(path: Path, found: Mapping[str, Sequence[Confusion]]) -> None:
    """Which actions were taken for which, a panel for each method: means over its seeds, as shares of each true class.

    Args:
        path: PNG to write.
        found: of each method, one for each seed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = next(iter(found.values()))[0].classes
    figure = Figure(figsize=(0.6 + 3.4 * len(found), 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    ticks = range(len(classes))
    for panel, (method, seeds) in zip(panels, found.items(), strict=True):
        values = np.mean([each.shares() for each in seeds], axis=0)
        panel.imshow(values, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            share = float(values[row, column])
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
        panel.set_title(f"{method}: {np.mean([each.accuracy for each in seeds]):.1%}", fontsize="medium")
        panel.set_xticks(ticks, classes, rotation=60, ha="right", fontsize="small")
        panel.set_yticks(ticks, classes, fontsize="small")
        panel.set_xlabel("recognised as, %")
    panels[0].set_ylabel("motion")
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))
