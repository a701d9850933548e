"""How well actions are recognised: which were taken for which (Struct-VRNN Figure 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kpagent.dynamics.recognition import ActionRecognizer
from kpagent.dynamics.recognition_codes import LabelledCodes
from kpagent.errors import UsageError

_WINDOWS = 256


@dataclass(frozen=True)
class Confusion:
    """Which actions were taken for which."""

    classes: tuple[str, ...]
    """(C,) names."""
    counts: tuple[tuple[int, ...], ...]
    """(C, C) windows: a row for each true class, a column for each that was said."""

    @property
    def accuracy(self) -> float:
        """Share of the windows that were recognised."""
        counts = np.array(self.counts)
        return float(np.trace(counts) / counts.sum())

    @property
    def most_frequent(self) -> float:
        """Accuracy of the null model, which always says the most frequent class of these windows."""
        counts = np.array(self.counts)
        return float(counts.sum(axis=1).max() / counts.sum())

    def shares(self) -> np.ndarray:
        """(C, C), each row by its sum: on the diagonal, the share of a class that was recognised; NaN without windows."""
        counts = np.array(self.counts, np.float64)
        windows = counts.sum(axis=1, keepdims=True)
        return np.divide(counts, windows, out=np.full_like(counts, np.nan), where=windows > 0)

    def plain(self) -> dict[str, Any]:
        """As JSON values, of which `of` makes the same again."""
        return {"accuracy": self.accuracy, "classes": list(self.classes), "counts": [list(row) for row in self.counts]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Confusion:
        """From what `plain` gave."""
        return cls(tuple(plain["classes"]), tuple(tuple(row) for row in plain["counts"]))


def confusion(recognizer: ActionRecognizer, codes: LabelledCodes) -> Confusion:
    """Recognise windows that were not learned from, and count.

    Raises:
        UsageError: the recogniser has other classes.
    """
    if codes.classes != recognizer.config.classes:
        found, known = ", ".join(codes.classes), ", ".join(recognizer.config.classes)
        raise UsageError(f"{codes.sequences.path} has {found}, and {known} were learned")
    recognizer.eval()
    device = recognizer.code_mean.device
    counts = np.zeros((len(codes.classes),) * 2, np.int64)
    for start in range(0, len(codes), _WINDOWS):
        some = slice(start, start + _WINDOWS)
        said = recognizer.predict(torch.from_numpy(codes.codes[some]).to(device)).argmax(dim=-1).cpu().numpy()
        np.add.at(counts, (codes.labels[some], said), 1)
    return Confusion(codes.classes, tuple(tuple(map(int, row)) for row in counts))
