"""Where keypoints begin: each map learns to light up on one colour of what moves, before it learns to paint.

From random weights, a keypoint is the mean place of a map that says nothing; it stays near the centre, what is painted from
it teaches it little, and the paper takes 50 million frames to get away from there. A detector that already tells moving
things apart needs only to be refined by the losses of the paper. No labels are used: what moves is what differs from the
median of its sequence, and of the colours found there each keypoint gets one.

This is ours; the paper has nothing like it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.frame_code import KeypointCode
from kpagent.fields import require
from kpagent.training import Precision, TrainingConfig

_DRAW = 4
"""Of the numbers that are drawn: what `learning_batches` does not use."""
_LEVELS = 32
"""Of red, green and blue, where colours are counted."""


@dataclass(frozen=True)
class MotionStartConfig:
    """How the detector begins."""

    steps: int = 150
    """Optimiser steps."""
    batch_size: int = 32
    """Frames a step."""
    learning_rate: float = 2e-3
    """Adam's."""
    sequences: int = 64
    """Stretches of sequences that are looked at."""
    length: int = 48
    """Their frames, at most."""
    every: int = 3
    """Of these, one in so many is taken, of short sequences more."""
    share: float = 0.3
    """A pixel moves where it is this share of the largest difference away from its median over the stretch."""

    def __post_init__(self) -> None:
        self.training(seed=0)
        checks = {
            "sequences must be at least 1": self.sequences >= 1,
            "length must be at least 2": self.length >= 2,
            "every must be at least 1": self.every >= 1,
            "share must be above 0 and below 1": 0 < self.share < 1,
        }
        require(self, checks)

    def training(self, seed: int, precision: Precision = "auto") -> TrainingConfig:
        """How `kpagent.training.train` is to train a `MotionStart`."""
        return TrainingConfig(self.steps, self.batch_size, self.learning_rate, precision=precision, seed=seed)


class MotionStart(nn.Module):
    """The detector of a code and what it is to light up on; its `loss` is for `kpagent.training.train`.

    Args:
        code: whose reader and regressor learn.
        frames: (B, T, H, W, 3) uint8, stretches of sequences.
        config: how.
        seed: of the batches.

    Attributes:
        colors: (C, 3) in [0, 1], C of 0 to K, none where nothing moves; a keypoint without one keeps its random start.
    """

    def __init__(self, code: KeypointCode, frames: np.ndarray, config: MotionStartConfig, seed: int = 0) -> None:
        super().__init__()
        self.code = code
        with torch.no_grad():
            images = code.to_images(frames)
            self.images, self.moving = images.flatten(0, 1), moving_pixels(images, config.share).flatten(0, 1)
        self.colors = distinct_colors(self.images.movedim(1, -1)[self.moving], code.config.num_keypoints)

        # Frames with nothing that moves teach nothing.
        self._useful = self.moving.flatten(1).any(dim=1).nonzero()[:, 0].cpu().numpy()
        self._seed, self._batch_size = seed, config.batch_size

    def batch(self, step: int) -> dict[str, Any]:
        """Which frames are learned from at a step; the same whenever it is asked for."""
        generator = np.random.default_rng((self._seed, step, _DRAW))
        return {"index": torch.from_numpy(generator.choice(self._useful, self._batch_size))}

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy between where each colour moves in a frame and the keypoint's map as a distribution over cells.

        Args:
            batch: `index`, (N,) numbers of frames.

        Returns:
            Its mean over the colours that are in a frame, in nats, and no metrics.
        """
        images, moving = self.images[batch["index"]], self.moving[batch["index"]]
        found = self.code.log_probabilities(self.code.score(images))[:, : len(self.colors)].flatten(2)
        nearest = torch.cdist(images.movedim(1, -1).flatten(1, 2), self.colors).argmin(dim=-1)
        claimed = one_hot(nearest, len(self.colors)).float() * moving.flatten(1).unsqueeze(-1)
        side = self.code.config.map_size
        wanted = adaptive_avg_pool2d(claimed.movedim(-1, 1).unflatten(-1, moving.shape[1:]), side).flatten(2)
        total = wanted.sum(dim=-1)
        there = total > 0
        loss = -(wanted * found).sum(dim=-1)[there] / total[there]
        return loss.mean(), {}


def moving_pixels(images: Tensor, share: float) -> Tensor:
    """What differs from its median over time, (B, T, 3, S, S) to (B, T, S, S) bool.

    Args:
        images: in [0, 1].
        share: of the largest difference, which a difference must exceed.
    """
    away = (images - images.median(dim=1, keepdim=True).values).abs().mean(dim=2)
    return away > share * away.max()


def distinct_colors(pixels: Tensor, count: int) -> Tensor:
    """The colours that stand for pixels best, the most distinct and frequent first.

    Each next one is that for which its number of pixels times its squared distance from those chosen before is the largest.

    Args:
        pixels: (P, 3) in [0, 1].
        count: how many are wanted.

    Returns:
        (C, 3), C of them; fewer than wanted where there are no more.
    """
    cells, pixels_of = torch.unique((pixels * (_LEVELS - 1)).round().long(), dim=0, return_counts=True)
    palette, weight = cells.to(pixels) / (_LEVELS - 1), pixels_of.to(pixels)
    chosen: list[int] = []
    nearest = torch.ones_like(weight)
    while len(chosen) < min(count, len(palette)):
        chosen.append(int((weight * nearest).argmax()))
        away = (palette - palette[chosen[-1]]).square().sum(dim=1)
        nearest = away if len(chosen) == 1 else torch.minimum(nearest, away)
    return palette[chosen]


def start_frames(sequences: Sequences, config: MotionStartConfig, seed: int, *, mix: float = 0.0) -> np.ndarray:
    """The frames that a start looks at, (B, T, H, W, 3) uint8: stretches of equal length from all over the sequences.

    In the share of them that is mixed, frames are from anywhere, and what differs between sequences moves, too.
    """
    generator = np.random.default_rng((seed, _DRAW))
    length = min(config.length, int(np.median(sequences.lengths)))
    every = max(1, min(config.every, length // 4))
    return sequences.windows(config.sequences, length, generator, mix=mix)["frames"][:, ::every]
