from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from turning_dots import drawn, turning

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.subgoals.code_sequences import CodeSequences, keypoint_codes

LENGTHS = (5, 9, 3, 7)


def numbered() -> CodeSequences:
    """Each code tells its sequence and its frame."""
    return CodeSequences([np.stack([np.full(n, i), np.arange(n)], axis=1) for i, n in enumerate(LENGTHS)])


def test_windows_are_consecutive_and_all_come() -> None:
    sequences = numbered()
    assert (len(sequences), sequences.size, sequences.lengths.tolist()) == (4, 2, list(LENGTHS))
    codes = sequences.windows(2000, 4, np.random.default_rng(0))["codes"]
    assert (codes.shape, codes.dtype) == ((2000, 4, 2), np.float32)
    assert (np.diff(codes[..., 0], axis=1) == 0).all()
    assert (np.diff(codes[..., 1], axis=1) == 1).all()
    places, counts = np.unique(codes[:, 0].astype(int), axis=0, return_counts=True)
    expected = [[i, t] for i, n in enumerate(LENGTHS) for t in range(n - 3)]
    assert places.tolist() == expected
    np.testing.assert_allclose(counts, 2000 / len(expected), rtol=0.3)
    again = sequences.windows(2000, 4, np.random.default_rng(0))["codes"]
    np.testing.assert_array_equal(codes, again)
    with pytest.raises(UsageError, match="windows of 10 frames need a sequence as long; the longest has 9"):
        sequences.windows(2, 10, np.random.default_rng(0))


def test_ordered_windows_are_beginnings() -> None:
    assert numbered().ordered(5, 9)["codes"][:, 0].tolist() == [[0, 0], [1, 0], [3, 0]]
    assert numbered().ordered(5, 2)["codes"].shape == (2, 5, 2)


def test_parts_are_apart() -> None:
    sequences = numbered()
    training, others = sequences.split(0.3)
    assert (len(training), len(others)) == (3, 1)
    found = {int(one[0, 0]) for part in (training, others) for one in part.codes}
    assert found == {0, 1, 2, 3}
    assert others.digest != training.digest
    assert sequences.digest == numbered().digest
    with pytest.raises(UsageError, match="must be above 0"):
        sequences.split(1.0)
    with pytest.raises(UsageError, match="a single sequence cannot be split"):
        CodeSequences([np.zeros((5, 2))]).split(0.5)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "there is no sequence"),
        ([np.zeros((5, 2)), np.zeros((5, 3))], "with as many numbers each"),
        ([np.zeros(5)], "with as many numbers each"),
        ([np.full((5, 2), np.nan)], "NaN or infinity among the codes"),
    ],
)
def test_what_are_no_codes_is_refused(codes: list[np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=f"here: .*{message}") as refusal:
        CodeSequences(codes, "here")
    assert "\n" not in str(refusal.value)


class Brightest:
    """Finds the brightest pixel, and calls it two keypoints."""

    def encode(self, frames: Any) -> Keypoints:
        count, height, width, _ = frames.shape
        place = torch.from_numpy(np.ascontiguousarray(frames[..., 0])).flatten(1).long().argmax(dim=1)
        xy = torch.stack([(2 * (place % width) + 1) / width - 1, (2 * (place // width) + 1) / height - 1], dim=-1)
        points = xy.unsqueeze(1).expand(-1, 2, -1)
        return Keypoints(points, torch.ones(count, 2), torch.zeros(count, 2, 0))


class Dots:
    """Dots on disk."""

    count = 3
    provenance = Provenance("test", "dots", {}, 0)

    def make(self, start: int, stop: int) -> Any:
        for number in range(start, stop):
            yield FrameSequence(drawn(turning(1, 6, number)[0][0], 16))


def test_frames_become_keypoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sequences(tmp_path / "dots.h5", Dots())
    sequences = Sequences(tmp_path / "dots.h5")
    done: list[int] = []
    found = keypoint_codes(sequences, Brightest(), done.append)
    assert found.size == 4
    assert done == [6, 12, 18]
    for number, codes in enumerate(found.codes):
        np.testing.assert_allclose(codes[:, :2], codes[:, 2:])
        np.testing.assert_allclose(codes[:, :2], turning(1, 6, number)[0][0] / 2, atol=1 / 12)
    monkeypatch.setattr("kpagent.subgoals.code_sequences.CHUNK", 4)
    assert keypoint_codes(sequences, Brightest()).digest == found.digest
