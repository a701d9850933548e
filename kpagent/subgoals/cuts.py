"""The best cuts of windows of sequences, for an interpolator that learns no more: every segment is made only once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.interpolator import Interpolator
from kpagent.subgoals.segmentation import best_offsets

BLOCK = 64
"""Frames of a sequence from which segments are made at once."""
HELD = 50_000
"""Blocks that are held, of which each takes up to about 2.5 KB; beyond, those that were not asked for the longest go."""


class Cuts:
    """What `Interpolator.best_offsets` says of windows of sequences.

    The error of a segment is the same in all windows that have it, so it is kept. What is found for a window does not depend
    on what was asked before: a run that is taken up begins with nothing and finds the same.

    Args:
        interpolator: whose parameters stay as they are.
        sequences: frames or codes, as it takes them.
    """

    def __init__(self, interpolator: Interpolator, sequences: Sequences | CodeSequences) -> None:
        self.interpolator, self.sequences = interpolator, sequences
        self._block = lru_cache(HELD)(self._make_block)

    def __call__(self, which: np.ndarray, start: np.ndarray) -> Tensor:
        """The best offsets of windows of T + N frames, (B, M) int64.

        Args:
            which: (B,) numbers of sequences.
            start: (B,) first frames within them.
        """
        config = self.interpolator.config
        # Time 0 is the last frame that is given.
        firsts = (start + config.given - 1).tolist()
        costs = torch.stack([self._costs(*place) for place in zip(which.tolist(), firsts, strict=True)])
        return best_offsets(config.sequence_scale * costs, config.keyframes, config.keyframe_cost)

    def _costs(self, number: int, first: int) -> Tensor:
        """(N, S), of the segments that start at a frame and at those after it; finite too where one goes beyond N."""
        end = first + self.interpolator.config.frames
        begin = first // BLOCK
        blocks = [self._block(number, block) for block in range(begin, (end - 1) // BLOCK + 1)]
        return torch.cat(blocks)[first - begin * BLOCK : end - begin * BLOCK]

    @torch.no_grad()
    def _make_block(self, number: int, block: int) -> Tensor:
        """(BLOCK, S), or fewer at the end of the sequence."""
        codec, start = self.interpolator.codec, block * BLOCK
        stretch = self.sequences.stretch(number, start, start + BLOCK + self.interpolator.config.longest_segment)
        observed = codec.observe(stretch[codec.name][None], next(self.interpolator.parameters()).device)
        return self.interpolator.costs(codec.encode(observed), observed)[0, :BLOCK]
