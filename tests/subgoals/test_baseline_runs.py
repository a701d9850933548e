"""Surprise and TAP as runs on disk: learned by `learn`, taken up, kept in files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from turning_dots import FRAMES, config, turning

from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.keyframe_model import FORMAT, KeyframeModel
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.learning import BEST, MODEL, LearningConfig, Report, learn
from kpagent.subgoals.surprise import SurprisePredictor
from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor
from kpagent.training import TrainingConfig

Kind = type[SurprisePredictor] | type[TimeAgnosticPredictor]
KINDS = pytest.mark.parametrize("kind", [SurprisePredictor, TimeAgnosticPredictor], ids=["surprise", "tap"])
PLACES = turning(24, 8)[0]
# The first stage is of KeyIn alone: nothing of it may be used.
LEARNING = LearningConfig(
    interpolator=TrainingConfig(steps=1000), keyframes=TrainingConfig(steps=9, batch_size=4), evaluate_every=4
)


def new(kind: Kind, **changes: Any) -> KeyframeModel:
    torch.manual_seed(0)
    return kind(config(**changes), {"made_by": "test"})


def run(kind: Kind, out: Path, stop: int | None = None) -> tuple[KeyframeModel, list[Report]]:
    model, reports = new(kind), []
    with contextlib.closing(learn(model, CodeSequences(list(PLACES)), LEARNING, out, resume=True)) as going:  # type: ignore[type-var]
        for report in going:
            reports.append(report)
            if report.step == stop:
                break
    return model, reports


@KINDS
def test_a_run_has_one_stage_and_can_be_taken_up(kind: Kind, tmp_path: Path) -> None:
    model, reports = run(kind, tmp_path / "through")
    assert [(one.stage, one.step, one.steps) for one in reports] == [("joint", step, 9) for step in range(1, 10)]
    assert [one.step for one in reports if one.held_out is not None] == [4, 8, 9]
    assert reports[-1].held_out is not None
    parts = {"sequence", "kl"} if kind is SurprisePredictor else {"nearest", "boundary"}
    assert set(reports[-1].held_out) == {"loss"} | parts
    run(kind, tmp_path / "twice", stop=5)
    taken_up, rest = run(kind, tmp_path / "twice")
    assert [one.step for one in rest] == [6, 7, 8, 9]
    for name, value in model.state_dict().items():
        assert torch.equal(value, taken_up.state_dict()[name]), name
    for name in (MODEL, BEST):
        found, expected = kind.load(tmp_path / "twice" / name), kind.load(tmp_path / "through" / name)
        assert all(torch.equal(value, expected.state_dict()[key]) for key, value in found.state_dict().items())
        assert found.provenance == expected.provenance
    assert kind.load(tmp_path / "twice" / MODEL).provenance["steps"] == 9
    # Nothing is left to do.
    again, none = run(kind, tmp_path / "twice")
    assert none == []
    assert again.provenance == taken_up.provenance


@KINDS
def test_a_run_of_another_kind_is_not_taken_up(kind: Kind, tmp_path: Path) -> None:
    run(kind, tmp_path, stop=2)
    other = TimeAgnosticPredictor if kind is SurprisePredictor else SurprisePredictor
    with pytest.raises(UsageError, match="is a checkpoint of a model of another shape"):
        run(other, tmp_path)


@KINDS
def test_what_is_saved_is_loaded(kind: Kind, tmp_path: Path) -> None:
    model = new(kind, segment_kl_scale=0.25)
    model.save(tmp_path / "model.safetensors")
    loaded = kind.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert loaded.provenance == {"made_by": "test"}
    assert not loaded.training
    assert all(value.requires_grad for value in loaded.parameters())
    batch = {"codes": PLACES, "seed": 3}
    assert torch.equal(loaded.loss(batch)[0], model.loss(batch)[0])
    for one, other in zip(loaded.discover(PLACES), model.discover(PLACES), strict=True):  # type: ignore[operator]
        np.testing.assert_array_equal(one, other)
    frames = new(kind, codec=FRAMES)
    frames.save(tmp_path / "frames.safetensors")
    assert kind.load(tmp_path / "frames.safetensors").config.codec == FRAMES


def _drop(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors.popitem()


def _spoil(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    next(iter(tensors.values())).fill_(float("nan"))


def _header(**values: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    return lambda tensors, header: header.update(values)


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], None], str]] = {
    "a tensor less": (_drop, "does not fit its configuration"),
    "NaN": (_spoil, "holds weights that are not finite numbers"),
    "no configuration": (_header(config=None), "no valid configuration"),
    "half a configuration": (_header(config={"latent": 3}), "no valid configuration"),
    "another model": (_header(model="keyin"), "holds a 'keyin', not a "),
    "a later format": (_header(format=FORMAT + 1), f"this kpagent reads format {FORMAT}"),
}


@KINDS
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_fit_is_refused(kind: Kind, name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    new(kind).save(path)
    tensors, header = load_tensors(path)
    damage, message = BROKEN[name]
    damage(tensors, header)
    save_tensors(path, tensors, header)
    with pytest.raises(UsageError, match=message) as refusal:
        kind.load(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@KINDS
def test_models_are_not_taken_for_each_other(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    new(kind).save(path)
    with pytest.raises(UsageError, match=f"holds a '{kind.kind}', not a keyin"):
        KeyIn.load(path)
    KeyIn(config()).save(path)
    with pytest.raises(UsageError, match=f"holds a 'keyin', not a {kind.kind}"):
        kind.load(path)


@given(st.data())
def test_a_damaged_file_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kind: Kind = SurprisePredictor if data.draw(st.booleans()) else TimeAgnosticPredictor
    path = tmp_path_factory.getbasetemp() / f"damaged_{kind.kind}.safetensors"
    new(kind).save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, min(4000, len(content) - 1)) | st.integers(0, len(content) - 1))] ^= data.draw(
            st.integers(1, 255)
        )
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        kind.load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
