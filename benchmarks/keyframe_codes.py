"""What the keyframes benchmark learns from: true positions, or keypoints learned without labels, of all sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.benchmarks.learning_runs import spent

if TYPE_CHECKING:
    from kpagent.collect.sequences import Sequences

KIND, FORMAT = "codes", 1
"""Of files of codes, in their header."""
WALL = ("wall_start", "wall_end")
"""Points of pushing, in the order of `keyframe_evaluation.ways_around`."""
PERCEPTION = "perception.safetensors"
"""In the folder of a run of `learn_code`: the model whose keypoints the codes are."""
AT_ONCE = 64
"""Sequences that are read at a time."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Sequences as numbers, in one safetensors file.

    Attributes:
        training: (N, L, D) float32, of the sequences to learn from.
        test: (M, L, D), of the others.
        keyframes: (M, L) bool, the true ones of these.
        names: of the points of which they are the true places, each x and y; empty of codes that were learned.
    """

    training: np.ndarray
    test: np.ndarray
    keyframes: np.ndarray
    names: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UsageError: it cannot be written.
        """
        import torch

        from kpagent.files import save_tensors

        tensors = {name: torch.from_numpy(getattr(self, name)) for name in ("training", "test", "keyframes")}
        save_tensors(path, tensors, {"model": KIND, "format": FORMAT, "names": list(self.names)})

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, another file, or damaged.
        """
        from kpagent.errors import UsageError
        from kpagent.files import load_tensors, require_kind

        tensors, header = load_tensors(path)
        require_kind(path, header, KIND, FORMAT)
        try:
            return cls(**{name: value.numpy() for name, value in tensors.items()}, names=tuple(header["names"]))
        except (TypeError, KeyError) as error:
            raise UsageError(f"{path} holds no codes of sequences: {error}") from error

    def places(self, sequences: np.ndarray, name: str) -> np.ndarray:
        """(..., 2) of codes (..., D), the true place of a point."""
        number = self.names.index(name)
        return sequences[..., 2 * number : 2 * number + 2]

    def walls(self, sequences: np.ndarray) -> np.ndarray | None:
        """(N, 2, 2), both ends of the wall in sequences (N, L, D) of true places; None where there is none."""
        if not set(WALL) <= set(self.names):
            return None
        return np.stack([self.places(sequences[:, 0], name) for name in WALL], axis=1)


def keep_truth(*, training: str, test: str, path: str, counts: Sequence[int]) -> dict[str, Any]:
    """Take true positions and keyframes out of files of sequences, and keep them as `Codes`.

    Args:
        training: file of sequences to learn from.
        test: file of others.
        path: of the codes.
        counts: of sequences in both, by which a run is told from one on more or fewer of them.

    Returns:
        `keyframes`, the mean number of true ones in a test sequence.

    Raises:
        UsageError: the files have other numbers of sequences.
    """
    from kpagent.collect.sequences import Sequences
    from kpagent.errors import UsageError

    both = [Sequences(training), Sequences(test)]
    found = [len(sequences) for sequences in both]
    if found != list(counts):
        raise UsageError(f"{training} and {test} have {found} sequences, not {list(counts)}")
    read = [_truth(sequences) for sequences in both]
    codes = Codes(read[0][0], *read[1], both[0].truth_names)
    codes.save(Path(path))
    return {"keyframes": float(codes.keyframes.sum(axis=1).mean())}


def learn_code(
    seed: int,
    folder: str,
    *,
    training: str,
    test: str,
    truth: str,
    path: str,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    device: str = "auto",
) -> dict[str, Any]:
    """Learn a keypoint code without labels, and keep it and the codes of all sequences. A run that was killed is taken up.

    Args:
        seed: of the parameters; that of the batches is in `learning`.
        folder: of the run.
        training: file of sequences to learn from.
        test: file of others.
        truth: file of `keep_truth`, to measure by.
        path: of the codes.
        model: `StructVRNNConfig` as plain values.
        learning: `kpagent.dynamics.learning.LearningConfig` as plain values.
        device: auto, cpu or cuda.

    Returns:
        `distance`, that of each true point from the keypoint that follows it, in widths of the image, as of `Follower`;
        `spent`, as of `learn_keyframes`.
    """
    from kpagent.benchmarks.keyframe_evaluation import find_followers
    from kpagent.benchmarks.video_runs import train_code
    from kpagent.collect.sequences import Sequences
    from kpagent.subgoals.code_sequences import keypoint_codes

    true, both = Codes.load(truth), [Sequences(training), Sequences(test)]
    learner = train_code(seed, Path(folder), both[0], model, learning, device)
    learner.save(Path(folder) / PERCEPTION)
    encoded = [np.stack(keypoint_codes(sequences, learner).codes) for sequences in both]
    Codes(encoded[0], encoded[1], true.keyframes).save(Path(path))
    followers = find_followers(encoded[1], points(true.test))
    distances = {name: one.distance for name, one in zip(true.names, followers, strict=True)}
    return {"distance": distances, "spent": spent(Path(folder))}


def batches(sequences: Sequences) -> Iterator[dict[str, np.ndarray]]:
    """All sequences whole and in their order, some at a time."""
    length = int(sequences.lengths.max())
    return (sequences.ordered(length, AT_ONCE, first=first) for first in range(0, len(sequences), AT_ONCE))


def points(codes: np.ndarray) -> np.ndarray:
    """(..., P, 2) of codes (..., 2 P)."""
    return codes.reshape(*codes.shape[:-1], -1, 2)


def _truth(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """True positions (N, L, 2 P) and keyframes (N, L)."""
    read = [(batch["truth"], batch["keyframes"]) for batch in batches(sequences)]
    positions, keyframes = (np.concatenate(part) for part in zip(*read, strict=True))
    return positions.reshape(*positions.shape[:2], -1), keyframes
