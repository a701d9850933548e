"""What a Struct-VRNN learns from: windows of frames, or of codes that were encoded once; functions of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.struct_vrnn import CHUNK, StructVRNN
from kpagent.training import TrainingConfig

# What the numbers drawn at a step are for. None is 0: to NumPy, seeds that differ in zeros at the end are the same.
_FRAMES, _CODES, _LOSS = 1, 2, 3


def wanted(config: StructVRNNConfig) -> tuple[str, ...]:
    """The parts of a window of frames that a model uses."""
    parts = {"frames": True, "actions": config.dynamics.actions > 0, "truth": config.code.supervision > 0}
    return tuple(name for name, used in parts.items() if used)


class FrameBatches:
    """Windows of frames, for `StructVRNN.loss` and `FrameCode.loss`.

    Args:
        sequences: to draw from.
        length: frames of a window.
        training: batch size, steps and seed.
        config: of the model, which says what else of a window it uses.
        mix: as of `Sequences.windows`.
    """

    def __init__(
        self,
        sequences: Sequences,
        length: int,
        training: TrainingConfig,
        config: StructVRNNConfig,
        *,
        mix: float = 0.0,
    ) -> None:
        self.sequences, self.length, self.training, self.mix = sequences, length, training, mix
        self.names = wanted(config)

    def __call__(self, step: int) -> dict[str, Any]:
        """Frames, and actions and truth where they are used, beside `progress` and `seed`."""
        generator = np.random.default_rng((self.training.seed, step, _FRAMES))
        windows = self.sequences.windows(self.training.batch_size, self.length, generator, mix=self.mix)
        return {name: windows[name] for name in self.names} | _about(self.training, step)


class EncodedSequences:
    """Codes of all frames of sequences, held in memory beside the actions; `encode` fills them.

    Args:
        sequences: to encode, of which the longest has a window's frames or more.
        model: what encodes them.
    """

    def __init__(self, sequences: Sequences, model: StructVRNN) -> None:
        self.sequences, self.model = sequences, model
        self.lengths = sequences.lengths
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.codes = torch.empty(sequences.num_frames, model.config.code.size, device=model.device)
        actions = model.config.dynamics.actions
        self.actions = torch.empty(sequences.num_frames, actions, device=model.device) if actions else None

    def encode(self) -> Iterator[int]:
        """Encode a piece of a sequence, and say how many frames are done."""
        for number, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            for first in range(0, length, CHUNK):
                piece = self.sequences.stretch(number, first, first + CHUNK)
                place = slice(start + first, start + first + len(piece["frames"]))
                self.codes[place] = self.model.encode_sequence(piece["frames"][None])[0]
                if self.actions is not None:
                    self.actions[place] = torch.from_numpy(piece["actions"])
                yield place.stop

    def windows(self, batch: int, length: int, generator: np.random.Generator) -> dict[str, Tensor]:
        """As `Sequences.windows`: `codes` (B, T, 3K) and, where the model has them, `actions` (B, T, A)."""
        which, offset = self.sequences.draw(batch, length, generator)
        first = self.starts[which] + offset
        rows = torch.from_numpy(first[:, None] + np.arange(length)).to(self.codes.device)
        windows = {"codes": self.codes[rows]}
        return windows if self.actions is None else windows | {"actions": self.actions[rows]}


class CodeBatches:
    """Windows of codes, for `VRNN.loss`.

    Args:
        encoded: to draw from.
        length: frames of a window.
        training: batch size, steps and seed.
    """

    def __init__(self, encoded: EncodedSequences, length: int, training: TrainingConfig) -> None:
        self.encoded, self.length, self.training = encoded, length, training

    def __call__(self, step: int) -> dict[str, Any]:
        """Codes, and actions where they are used, beside `progress` and `seed`."""
        generator = np.random.default_rng((self.training.seed, step, _CODES))
        return self.encoded.windows(self.training.batch_size, self.length, generator) | _about(self.training, step)


def _about(training: TrainingConfig, step: int) -> dict[str, Any]:
    return {"progress": step / training.steps, "seed": (training.seed, step, _LOSS)}
