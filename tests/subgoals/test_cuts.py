"""Cuts that are kept, against those that are searched for in each window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from turning_dots import CODES, FRAMES, config, drawn, turning

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.files import load_tensors
from kpagent.subgoals import cuts as cutting
from kpagent.subgoals import learning
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.cuts import Cuts
from kpagent.subgoals.interpolator import Interpolator
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.learning import MODEL, LearningConfig, guiding_cuts, learn
from kpagent.training import TrainingConfig

LENGTHS = (8, 9, 14, 23)
GUIDED: dict[str, Any] = {"guide_share": 0.7, "guided": 3, "keyframe_cost": 0.1, "shortest_segment": 1}
TRAINING = TrainingConfig(steps=10, batch_size=4, precision="float32", checkpoint_every_s=0)
LEARNING = LearningConfig(False, replace(TRAINING, steps=3), TRAINING, 0.3, 100)


class Dots:
    """Dots on disk, of several lengths."""

    count = len(LENGTHS)
    provenance = Provenance("test", "dots", {}, 0)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for number in range(start, stop):
            yield FrameSequence(drawn(turning(1, LENGTHS[number], number)[0][0]))


def dots() -> CodeSequences:
    return CodeSequences([turning(1, length, number)[0][0] for number, length in enumerate(LENGTHS)])


def guided_dots() -> CodeSequences:
    return CodeSequences(list(turning(12, 9)[0]))


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("kind", ["codes", "frames"])
def test_they_are_those_of_each_window_alone(kind: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BLOCK", block)
    torch.manual_seed(0)
    sequences: Sequences | CodeSequences = dots()
    if kind == "frames":
        write_sequences(tmp_path / "dots.h5", Dots())
        sequences = Sequences(tmp_path / "dots.h5")
    model = Interpolator(config(CODES if kind == "codes" else FRAMES, keyframe_cost=0.01, shortest_segment=1))
    cuts = Cuts(model, sequences)
    which, start = (
        np.array(part) for part in zip(*((w, s) for w, n in enumerate(LENGTHS) for s in range(n - 7)), strict=True)
    )
    windows = np.stack([sequences.stretch(w, s, s + 8)[kind] for w, s in zip(which.tolist(), start.tolist(), strict=True)])
    observed = model.codec.observe(windows, torch.device("cpu"))
    with torch.no_grad():
        expected = model.best_offsets(model.codec.encode(observed), observed)
    assert len(expected.unique(dim=0)) > 2
    order = np.random.default_rng(0).permutation(len(which))
    assert torch.equal(cuts(which[order], start[order]), expected[order])
    assert torch.equal(cuts(which[:1], start[:1]), expected[:1])


def test_segments_are_made_once_and_those_not_asked_for_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "HELD", 2)
    torch.manual_seed(0)
    model, made = Interpolator(config()), list[int]()
    costs = model.costs

    def note(codes: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        made.append(codes.shape[1])
        return costs(codes, observed)

    monkeypatch.setattr(model, "costs", note)
    cuts = Cuts(model, dots())
    for number in (0, 1, 1, 0):
        cuts(np.array([number]), np.array([0]))
    assert made == [8, 9]
    cuts(np.array([2]), np.array([0]))
    cuts(np.array([0, 1]), np.array([0, 0]))
    assert made == [8, 9, 14, 9]


def run(out: Path, stops: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """A guided training, closed after so many reports and taken up again."""
    for stop in (*stops, None):
        torch.manual_seed(0)
        loop: Any = learn(KeyIn(config(**GUIDED)), guided_dots(), LEARNING, out, resume=True)
        list(itertools.islice(loop, stop))
        loop.close()
    return load_tensors(out / MODEL)[0]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_guided_run_learns_the_same_with_cuts_that_are_kept_and_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    assert_same(run(tmp_path / "stopped", (5, 4)), whole)
    monkeypatch.setattr(learning, "guiding_cuts", lambda *given: None)
    assert_same(run(tmp_path / "searched"), whole)


def test_they_are_kept_where_that_is_less_to_search() -> None:
    def found(steps: int, **changes: Any) -> Cuts | None:
        # 60 frames in windows of 6 segments' starts, 3 of each batch.
        model, sequences = KeyIn(config(**GUIDED | changes)), CodeSequences(list(turning(6, 10)[0]))
        return guiding_cuts(model, sequences, replace(TRAINING, steps=steps))

    assert found(5) is not None
    assert found(4) is None
    assert found(100, guide_share=0.0) is None
