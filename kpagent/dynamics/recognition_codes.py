"""Codes of labelled sequences, computed once, from which actions are recognised (Struct-VRNN S2.1 of the preprint)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

_WINDOWS = 32
"""At a time."""


class LabelledCodes:
    """Codes and labels of all windows of labelled sequences; `encode` fills them.

    Args:
        sequences: with labels.
        model: whose codes are taken, of whichever kind; without, a code is the true positions of a frame.
        length: L, frames of a window.

    Raises:
        UsageError: no labels; no sequence of so many frames; without a model, no true positions.

    Attributes:
        classes: names.
        labels: (N,) int64, number of the class of each window.
        codes: (N, L, D) float32.
    """

    def __init__(self, sequences: Sequences, model: StructVRNN | None, length: int) -> None:
        self.sequences, self.model, self.classes = sequences, model, sequences.label_names
        _labels(sequences)
        if model is None and not sequences.truth_names:
            raise UsageError(f"{sequences.path} has no true positions to recognise actions from")
        count = sequences.num_ordered(length)
        size = 2 * len(sequences.truth_names) if model is None else model.config.code.size
        self.labels = np.zeros(count, np.int64)
        self.codes = np.empty((count, length, size), np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def encode(self) -> Iterator[int]:
        """Encode some windows, and say how many are done.

        Raises:
            UsageError: a true position is not known.
        """
        for first in range(0, len(self), _WINDOWS):
            windows = self.sequences.ordered(self.codes.shape[1], _WINDOWS, first=first)
            place = slice(first, first + len(windows["labels"]))
            if self.model is not None:
                self.codes[place] = self.model.encode_sequence(windows["frames"]).float().cpu().numpy()
            else:
                self.codes[place] = windows["truth"].reshape(*windows["truth"].shape[:2], -1)
            if not np.isfinite(self.codes[place]).all():
                raise UsageError(f"{self.sequences.path} has codes that are not finite: not all true positions are known")
            self.labels[place] = windows["labels"]
            yield place.stop


def require_labels(sequences: Sequences, training: Sequences, length: int) -> None:
    """Refuse sequences that say nothing of actions, or too little to learn from.

    Args:
        sequences: all.
        training: those to learn from.
        length: frames of a window.

    Raises:
        UsageError: no labels, or of one class alone; a class without a window to learn from.
    """
    found = np.unique(_labels(sequences))
    if len(found) < 2:
        name = sequences.label_names[int(found[0])]
        raise UsageError(f"{sequences.path} has sequences of {name} alone: recognition needs two classes or more")
    available = _labels(training)[training.lengths >= length]
    for number, name in enumerate(sequences.label_names):
        if not (available == number).any():
            raise UsageError(f"{sequences.path} has no sequence of {name} with {length} frames to learn from")


def _labels(sequences: Sequences) -> np.ndarray:
    if sequences.labels is None:
        raise UsageError(f"{sequences.path} has no labels: nothing says which action a sequence shows")
    return sequences.labels
