"""Runs of both stages on dots that turn: reports, files, closed early and taken up again."""

from __future__ import annotations

import itertools
import json
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
from kpagent.errors import UsageError
from kpagent.files import load_tensors, read_header
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.learning import BEST, MODEL, LearningConfig, Report, SequenceBatches, holds_run, learn
from kpagent.training import TrainingConfig

TRAINING = TrainingConfig(steps=9, batch_size=4, precision="float32", checkpoint_every_s=0)
SHORT = LearningConfig(False, TRAINING, replace(TRAINING, steps=12), 0.3, 5)
JOINT = replace(SHORT, joint=True)
FILES = {
    "two stages": ("checkpoint-interpolator.safetensors", "checkpoint-keyframes.safetensors", MODEL, BEST),
    "at once": ("checkpoint.safetensors", MODEL, BEST),
}
CONFIGS = {"two stages": SHORT, "at once": JOINT}


def dots(count: int = 12, length: int = 9) -> CodeSequences:
    return CodeSequences(list(turning(count, length)[0]))


def new(codec: CodecConfig = CODES, seed: int = 0, **changes: Any) -> KeyIn:
    torch.manual_seed(seed)
    return KeyIn(config(codec, **changes))


def run(out: Path, learning: LearningConfig = SHORT, **options: Any) -> list[Report]:
    model = options.pop("model", None) or new()
    return list(learn(model, options.pop("sequences", None) or dots(), learning, out, **options))


@pytest.fixture(scope="module", params=list(CONFIGS))
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("run")
    run(out, CONFIGS[request.param], provenance={"made_by": "test"})
    return request.param, out


def assert_same_files(kind: str, found: Path, expected: Path) -> None:
    for name in FILES[kind]:
        (tensors, header), (others, other_header) = load_tensors(found / name), load_tensors(expected / name)
        assert header == other_header
        assert set(tensors) == set(others)
        for one, value in tensors.items():
            assert torch.equal(value, others[one]), one


def test_presets() -> None:
    paper = LearningConfig.paper()
    assert (paper.interpolator.steps, paper.keyframes.steps) == (100_000, 200_000)
    for training in (paper.interpolator, paper.keyframes):
        assert (training.batch_size, training.learning_rate, training.decay, training.anneal) == (30, 2e-4, 1, False)
    assert LearningConfig.fast() == LearningConfig()
    with pytest.raises(UsageError, match="held_out must be above 0"):
        LearningConfig(held_out=0)
    with pytest.raises(UsageError, match="evaluate_every must be at least 1"):
        LearningConfig(evaluate_every=0)


def test_batches_are_functions_of_seed_and_step() -> None:
    batches = SequenceBatches(dots(), 8, TRAINING)
    first, again, later = batches(3), batches(3), batches(4)
    assert set(first) == {"codes", "seed", "progress"}
    np.testing.assert_array_equal(first["codes"], again["codes"])
    assert first["codes"].shape == (4, 8, 2)
    assert not np.array_equal(first["codes"], later["codes"])
    assert first["seed"] == again["seed"] != later["seed"]
    assert (first["progress"], later["progress"]) == (3 / 9, 4 / 9)


def test_a_run_reports_and_keeps_what_it_did(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    kind, out = uninterrupted
    model = new()
    reports = run(tmp_path, CONFIGS[kind], model=model, provenance={"made_by": "test"})
    assert_same_files(kind, tmp_path, out)
    stages = [("interpolator", 9), ("keyframes", 12)] if kind == "two stages" else [("joint", 12)]
    expected = [(stage, step, steps) for stage, steps in stages for step in range(1, steps + 1)]
    assert [(one.stage, one.step, one.steps) for one in reports] == expected
    assert [one.held_out is not None for one in reports] == [step % 5 == 0 or step == steps for _, step, steps in expected]
    assert reports[-1].loss is not None
    assert reports[-1].held_out is not None
    assert {"loss", "code", "kl", "sequence", "keyframes", "unsure"} == set(reports[-1].held_out)
    assert not model.training
    assert all(value.requires_grad for value in model.parameters())
    saved = KeyIn.load(out / MODEL)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name
    provenance = saved.provenance
    assert (provenance["made_by"], provenance["steps"], provenance["data"]["sequences"]) == ("test", 12, 12)
    assert provenance["held_out"] == pytest.approx(dict(reports[-1].held_out))
    best = read_header(out / BEST)["provenance"]
    last = [one.held_out["loss"] for one in reports if one.held_out and one.stage == stages[-1][0]]
    assert best["held_out"]["loss"] == pytest.approx(min(last))
    assert list((out / "logs").glob("events*"))
    assert json.loads((out / "config.json").read_text())["model"]["keyframes"] == 3


def test_the_second_stage_does_not_touch_the_interpolator(tmp_path: Path) -> None:
    run(tmp_path)
    first, _ = load_tensors(tmp_path / "checkpoint-interpolator.safetensors")
    whole, _ = load_tensors(tmp_path / MODEL)
    for name, value in first.items():
        if name.startswith("model."):
            assert torch.equal(value, whole[f"interpolator.{name.removeprefix('model.')}"]), name


@pytest.mark.parametrize("stops", [(4, 3), (12, 2)])
def test_a_run_that_is_closed_early_goes_on_where_it_was(
    tmp_path: Path, uninterrupted: tuple[str, Path], stops: tuple[int, int]
) -> None:
    kind, expected = uninterrupted
    for stop in stops:
        loop: Any = learn(new(), dots(), CONFIGS[kind], tmp_path, provenance={"made_by": "test"}, resume=True)
        list(itertools.islice(loop, stop))
        loop.close()
    run(tmp_path, CONFIGS[kind], provenance={"made_by": "test"}, resume=True)
    assert_same_files(kind, tmp_path, expected)


def test_resuming_a_finished_run_changes_nothing(uninterrupted: tuple[str, Path]) -> None:
    kind, out = uninterrupted
    before = {name: (out / name).read_bytes() for name in FILES[kind]}
    model = new(seed=3)
    assert run(out, CONFIGS[kind], model=model, provenance={"made_by": "test"}, resume=True) == []
    assert {name: (out / name).read_bytes() for name in FILES[kind]} == before
    assert model.provenance["steps"] == 12


class Dots:
    """Dots on disk."""

    count = 8
    provenance = Provenance("test", "dots", {}, 0)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for number in range(start, stop):
            yield FrameSequence(drawn(turning(1, 9, number)[0][0]))


def test_frames_and_forms_are_learned(tmp_path: Path) -> None:
    write_sequences(tmp_path / "dots.h5", Dots())
    sequences = Sequences(tmp_path / "dots.h5")
    forms: list[dict[str, Any]] = [{}, {"fixed_offsets": (2, 2, 2)}, {"guide_share": 0.6, "keyframe_cost": 0.1}]
    for number, changes in enumerate(forms):
        reports = run(tmp_path / str(number), model=new(FRAMES, **changes), sequences=sequences)
        assert reports[-1].held_out is not None
        assert np.isfinite(list(reports[-1].held_out.values())).all()
    run(tmp_path / "joint", JOINT, model=new(FRAMES), sequences=sequences)


# What is refused before any work


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tmp_path: Path, uninterrupted: tuple[str, Path]) -> None:
    kind, out = uninterrupted
    about = {"made_by": "test"}
    assert holds_run(out)
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        learn(new(), dots(), CONFIGS[kind], out, provenance=about)
    others: list[tuple[KeyIn, CodeSequences, LearningConfig, str]] = [
        (new(), dots(), replace(CONFIGS[kind], held_out=0.4), "learning.held_out 0.3, not 0.4"),
        (new(latent=4), dots(), CONFIGS[kind], "model.latent 3, not 4"),
        (new(), dots(13), CONFIGS[kind], "provenance.data"),
    ]
    for model, sequences, learning, message in others:
        with pytest.raises(UsageError, match=message):
            learn(model, sequences, learning, out, provenance=about, resume=True)
    (tmp_path / MODEL).touch()
    with pytest.raises(UsageError, match="does not say how the run was started"):
        learn(new(), dots(), CONFIGS[kind], tmp_path, resume=True)


def test_sequences_that_will_not_do_are_refused(tmp_path: Path) -> None:
    write_sequences(tmp_path / "dots.h5", Dots())
    frames = Sequences(tmp_path / "dots.h5")
    longer = KeyInConfig(CODES, 5, 30)
    wrong: list[tuple[KeyIn, Any, str]] = [
        (new(), frames, "learns from codes, and these are sequences of frames"),
        (new(FRAMES), dots(), "learns from frames, and these are sequences of codes"),
        (new(replace(CODES, size=3)), dots(), "codes of 3 numbers, and these have 2"),
        (KeyIn(longer), dots(), "of the sequences to train on the longest has 9 frames, where 35 are needed"),
        (new(), CodeSequences([np.zeros((9, 2))]), "a single sequence cannot be split"),
    ]
    for model, sequences, message in wrong:
        with pytest.raises(UsageError, match=message) as refusal:
            learn(model, sequences, SHORT, tmp_path / "run")
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()
