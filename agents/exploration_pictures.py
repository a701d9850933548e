"""Where the most controllable keypoint has been, as a heatmap over the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kpagent.agents.exploration import count_places
from kpagent.agents.option_actor import OptionActor
from kpagent.agents.option_agent import OptionAgent
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.files import replace_file
from kpagent.perception.detector import KeypointDetector

WATCH_EVERY = 4
"""Interactions between two looks at random play, as in exploration by default."""


def random_places(
    agent: OptionAgent, perception: KeypointDetector, players: GymnasiumVecEnv, interactions: int, seed: int
) -> np.ndarray:
    """How often the most controllable keypoint is in each cell of the screen while actions are uniformly random.

    Args:
        agent: says which keypoint is the most controllable.
        perception: finds it.
        players: copies of an environment of frames, as `make_frame_players` makes them; they are reset.
        interactions: of each copy.
        seed: of the actions.

    Returns:
        `CELLS` int64.
    """
    actor = OptionActor(players, agent.network, agent.commitment, seed, perception, WATCH_EVERY)
    return count_places(actor.play(interactions, random=True).places)


def draw_places(path: str | Path, screen: np.ndarray, places: Mapping[str, np.ndarray]) -> None:
    """Heatmaps side by side, each over the same screen: of all looks at a keypoint, the share in each cell.

    Args:
        path: PNG to write.
        screen: (H, W, 3) uint8.
        places: by caption, (rows, columns) counts of looks. The caption gets their number added.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    height, width = screen.shape[:2]
    shares = [counts / max(1, counts.sum()) for counts in places.values()]
    least = min((share[share > 0].min() for share in shares if share.any()), default=1.0)
    figure = Figure(figsize=(4.2 * len(places) + 0.8, 4.2 * height / width + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    # One scale for all, whose darkest part, too dark to be seen here, is not used.
    norm = LogNorm(least / 4, 1)
    grey = np.repeat(screen.mean(axis=-1, keepdims=True) * 0.6, 3, axis=-1).astype(np.uint8)
    for panel, (caption, counts), share in zip(panels, places.items(), shares, strict=True):
        panel.imshow(grey, extent=(0, width, height, 0))
        cells = np.ma.masked_equal(share, 0)
        image = panel.imshow(cells, "inferno", norm, extent=(0, width, height, 0), alpha=0.75, interpolation="nearest")
        panel.set_title(f"{caption}\n{int(counts.sum()):,} looks", fontsize="medium")
        panel.set_xticks([])
        panel.set_yticks([])
    figure.colorbar(image, ax=list(panels), label="share of looks", shrink=0.8)
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))
