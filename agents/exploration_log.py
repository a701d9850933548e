"""What a run of exploration is doing: figures for TensorBoard, and one live line."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.agents.exploration import Turn
from kpagent.agents.intrinsic import DIRECTIONS

RECENT_TURNS = 30
"""Over which the live line averages: those of one turn jump about."""
RECENT_GAMES = 100
"""Over which the live line averages scores."""


class ExplorationLog:
    """Listens to the turns of `explore`.

    Args:
        folder: for TensorBoard.
        frames: of an interaction, in which all is counted.
        commitment: T; the intrinsic return of a direction is T times the mean move of an interaction.

    Attributes:
        games: that ended.
        best: the highest score among them; None before the first.
    """

    def __init__(self, folder: Path, frames: int, commitment: int) -> None:
        self.folder, self.frames, self.commitment = folder, frames, commitment
        self.games = 0
        self.best: float | None = None
        self._scores: deque[float] = deque(maxlen=RECENT_GAMES)
        self._returns: deque[np.ndarray] = deque(maxlen=RECENT_TURNS)
        self._keypoints: deque[int] = deque(maxlen=RECENT_TURNS)
        self._marks: deque[tuple[float, int]] = deque(maxlen=RECENT_TURNS)
        self._learning = False
        self._writer: Any = None

    def note(self, turn: Turn) -> None:
        """Take in what `explore` has just yielded."""
        step = turn.interactions * self.frames
        self._marks.append((time.monotonic(), step))
        self._scores.extend(turn.returns)
        self.games += len(turn.returns)
        self.best = max((score for score in (*turn.returns, self.best) if score is not None), default=None)
        self._learning = turn.learning
        figures = {
            "frames/per_second": turn.per_second * self.frames,
            "keypoints/loss": turn.keypoint_loss,
            "options/loss": turn.option_loss,
            "extrinsic/score": float(np.mean(turn.returns)) if turn.returns else None,
        }
        if turn.displacement is not None:
            returns = self.commitment * np.array(turn.displacement)
            self._returns.append(returns)
            figures |= {f"options/return_{name}": value for name, value in zip(DIRECTIONS, returns.tolist(), strict=True)}
        if turn.learning and turn.keypoint is not None:
            self._keypoints.append(turn.keypoint)
            figures["options/most_controllable"] = turn.keypoint
        self._write(step, figures)

    def line(self) -> str:
        """Frames a second, intrinsic returns, the most controllable keypoint and scores, as they are of late."""
        parts = ["exploring" if self._learning else "warming up", f"{self.frames_per_s():,.0f} frames/s"]
        if self._returns:
            seen = np.array(self._returns)
            # Not a number where no option of this direction was in the batch.
            known = [column[np.isfinite(column)] for column in seen.T]
            moves = (f"{values.mean():+.2f}" if len(values) else "?" for values in known)
            parts.append(" ".join(f"{name} {move}" for name, move in zip(DIRECTIONS, moves, strict=True)))
        if self._keypoints:
            parts.append(f"keypoint {np.bincount(self._keypoints).argmax()}")
        if self._scores:
            parts.append(f"score {np.mean(self._scores):.4g}, best {self.best:g}")
        return ", ".join(parts)

    def frames_per_s(self) -> float:
        """Of late, learning included; 0 before the second turn."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, figures: dict[str, float | None]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What was logged after the checkpoint that a run goes on from is done again.
            self._writer = SummaryWriter(self.folder, purge_step=step)
        for name, value in figures.items():
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, step)
