"""Recognition of actions: its network, its codes, its learning, what it counts, its files and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import config as small_config
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.recognition import ActionRecognizer, RecognitionConfig, code_source
from kpagent.dynamics.recognition_accuracy import Confusion, confusion
from kpagent.dynamics.recognition_codes import LabelledCodes
from kpagent.dynamics.recognition_learning import (
    CHECKPOINT,
    MODEL,
    RecognitionLearningConfig,
    learn_recognition,
    new_recognizer,
)
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.training import learning_rate

WAYS = ("clockwise", "back")


class Turning:
    """A spot that goes round, one way or the other, from anywhere: no single frame tells which way."""

    def __init__(
        self,
        count: int,
        *,
        labels: tuple[int, ...] | None = (0, 1),
        names: tuple[str, ...] = WAYS,
        known: bool = True,
    ) -> None:
        self.count, self.labels, self.known = count, labels, known
        points = ("spot",) if known else ()
        self.provenance = Provenance("test", "turning", {}, 0, points, () if labels is None else names)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for unit in range(start, stop):
            generator = np.random.default_rng(unit)
            label = None if self.labels is None else self.labels[unit % len(self.labels)]
            turn = generator.uniform(0, 7) + (1, -1)[label or 0] * generator.uniform(0.5, 0.9) * np.arange(8)
            spot = 0.6 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
            cells = (np.arange(16) + 0.5) / 8 - 1
            near = np.square(cells - spot[:, :1])[:, None] + np.square(cells - spot[:, 1:])[:, :, None]
            frames = (255 * np.exp(-near / 0.05)).astype(np.uint8)[..., None].repeat(3, axis=-1)
            yield FrameSequence(frames, truth=spot[:, None].astype(np.float32) if self.known else None, label=label)


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    path = tmp_path_factory.mktemp("turning") / "turning.h5"
    write_sequences(path, Turning(120))
    return Sequences(path)


@pytest.fixture(scope="module")
def model() -> StructVRNN:
    torch.manual_seed(1)
    return StructVRNN(small_config()).eval()


SHAPE = RecognitionConfig(WAYS, 5, "0", units=4)


# The network


def test_the_network_is_the_papers() -> None:
    torch.manual_seed(0)
    recognizer = ActionRecognizer(SHAPE)
    recognizer.code_mean.fill_(0.3)
    recognizer.code_scale.fill_(2.0)
    of = {name: value.detach().double().numpy() for name, value in recognizer.state_dict().items()}
    codes = np.random.default_rng(0).normal(size=(6, 5))

    def gru(name: str, inputs: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        given, kept = (
            of[f"{name}.weight_{way}_l0"] @ vector + of[f"{name}.bias_{way}_l0"]
            for way, vector in (("ih", inputs), ("hh", hidden))
        )
        reset, update = (1 / (1 + np.exp(-(given[at : at + 4] + kept[at : at + 4]))) for at in (0, 4))
        return (1 - update) * np.tanh(given[8:] + reset * kept[8:]) + update * hidden

    first = second = np.zeros(4)
    for code in codes:
        first = gru("first", (code - 0.3) / 2, first)
        second = gru("second", first, second)
    scores = np.exp(of["classify.weight"] @ second + of["classify.bias"])
    found = recognizer.predict(torch.from_numpy(codes)[None])
    np.testing.assert_allclose(found[0].numpy(), scores / scores.sum(), atol=1e-6)
    with pytest.raises(ValueError, match=r"codes must be \(B, T, 5\)"):
        recognizer.predict(torch.zeros(1, 6, 4))


def test_dropout_is_a_function_of_the_batch() -> None:
    recognizer = ActionRecognizer(replace(SHAPE, units=64, dropout=0.25))
    batch: dict[str, Any] = {"codes": np.ones((3, 4, 5), np.float32), "labels": np.array([0, 1, 1]), "seed": 5}
    losses = [recognizer.loss(batch | {"seed": seed})[0].item() for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]
    values = recognizer._dropped(torch.ones(200, 500), torch.Generator().manual_seed(0))
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((values == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    # Without dropout, the loss is that of what is predicted.
    whole = ActionRecognizer(replace(SHAPE, dropout=0.0))
    loss, metrics = whole.loss(batch)
    said = whole.predict(torch.from_numpy(batch["codes"]))
    assert loss.item() == pytest.approx(float(-said[range(3), batch["labels"]].log().mean()), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(float((said.argmax(-1) == torch.tensor([0, 1, 1])).float().mean()))


# Codes


def test_codes_are_those_of_the_model_or_the_truth(turning: Sequences, model: StructVRNN) -> None:
    for coder in (model, None):
        codes = LabelledCodes(turning, coder, 4)
        # Two windows of each sequence.
        assert list(codes.encode())[-1] == len(codes) == 240
        windows = turning.ordered(4, 240)
        np.testing.assert_array_equal(codes.labels, windows["labels"])
        row = 170
        expected = windows["truth"][row].reshape(4, 2)
        if coder is not None:
            expected = coder.encode_sequence(windows["frames"][row : row + 1])[0].numpy()
        np.testing.assert_allclose(codes.codes[row], expected, atol=1e-5)


def test_data_that_do_not_fit_are_refused(turning: Sequences, model: StructVRNN, tmp_path: Path) -> None:
    def written(name: str, **changes: Any) -> Sequences:
        write_sequences(tmp_path / name, Turning(6, **changes))
        return Sequences(tmp_path / name)

    config = RecognitionLearningConfig.of(2, length=8)
    mistakes: list[tuple[Sequences, StructVRNN | None, int, str]] = [
        (written("plain.h5", labels=None), model, 8, "plain.h5 has no labels: nothing says which action"),
        (written("one.h5", labels=(1,)), model, 8, "one.h5 has sequences of back alone: recognition needs two classes"),
        (written("unknown.h5", known=False), None, 8, "unknown.h5 has no true positions"),
        (turning, model, 9, "no sequence of clockwise with 9 frames to learn from"),
        (written("rare.h5", names=(*WAYS, "up")), None, 8, "rare.h5 has no sequence of up with 8 frames to learn from"),
    ]
    for sequences, coder, length, message in mistakes:
        with pytest.raises(UsageError, match=message):
            learn_recognition(coder, sequences, replace(config, length=length), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Learning


def test_what_only_order_tells_is_learned(turning: Sequences, tmp_path: Path) -> None:
    config = RecognitionLearningConfig.of(100, 0, length=8, units=16, evaluate_every=50)
    *_, last = learn_recognition(None, turning, config, tmp_path / "whole")
    assert last.confusion is not None
    assert last.confusion.accuracy > 0.9
    still = replace(config, training=replace(config.training, steps=50), length=1)
    *_, last = learn_recognition(None, turning, still, tmp_path / "still")
    assert last.confusion is not None
    assert last.confusion.accuracy < 0.7


CONFIG = RecognitionLearningConfig.of(6, 2, length=8, units=5, evaluate_every=4)


def test_a_run_that_is_taken_up_ends_like_one_that_ran_through(
    turning: Sequences, model: StructVRNN, tmp_path: Path
) -> None:
    reports = list(learn_recognition(model, turning, CONFIG, tmp_path / "whole", provenance={"method": "mine"}))
    assert [(one.stage, one.step, one.steps) for one in reports if one.stage != "learning"] == [
        ("encoding", 32, 96),
        ("encoding", 64, 96),
        ("encoding", 96, 96),
        ("held out", 24, 24),
    ]
    assert [one.step for one in reports if one.confusion is not None] == [4, 6]
    run = learn_recognition(model, turning, CONFIG, tmp_path / "cut")
    for report in run:
        if report.step == 3 and report.stage == "learning":
            break
    run.close()  # type: ignore[attr-defined]
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    assert not (tmp_path / "cut" / MODEL).exists()
    with pytest.raises(UsageError, match="holds a run already"):
        learn_recognition(model, turning, CONFIG, tmp_path / "cut")
    with pytest.raises(UsageError, match=r"has provenance.codes.source \w+, not truth"):
        learn_recognition(None, turning, CONFIG, tmp_path / "cut", resume=True)
    taken_up = list(learn_recognition(model, turning, CONFIG, tmp_path / "cut", resume=True))
    assert [one.step for one in taken_up if one.stage == "learning"] == [4, 5, 6]
    (whole, about), (cut, _) = (load_tensors(tmp_path / name / MODEL) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert list(learn_recognition(model, turning, CONFIG, tmp_path / "cut", resume=True)) == []
    provenance = about["provenance"]
    assert provenance["method"] == "mine"
    assert provenance["data"]["digest"] == turning.digest
    assert provenance["codes"]["source"] == about["config"]["source"] == code_source(model)
    assert sum(map(sum, provenance["held_out"]["counts"])) == 24
    assert list((tmp_path / "whole" / "logs").glob("events*"))


def test_the_learning_rate_falls_as_in_the_paper() -> None:
    training = RecognitionLearningConfig.of(1000).training
    rates = [learning_rate(training, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-4)
    assert len({round(rate, 8) for rate in rates}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"units": 0}, "units must be from 1 to 4096"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"held_out": 1.0}, "held_out must be above 0 and below 1"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1"),
    ],
)
def test_broken_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RecognitionLearningConfig.of(3, **changes)


# What was taken for what


def test_confusion_counts_each_window_once(turning: Sequences) -> None:
    codes = LabelledCodes(turning, None, 8)
    list(codes.encode())
    recognizer = new_recognizer(RecognitionConfig(WAYS, 2, "truth", units=4), codes, seed=3)
    rows = codes.codes.reshape(-1, 2)
    np.testing.assert_allclose(recognizer.code_mean.numpy(), rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(recognizer.code_scale.numpy(), rows.std(axis=0), rtol=1e-4)
    found = confusion(recognizer, codes)
    expected = np.zeros((2, 2), int)
    for code, label in zip(codes.codes, codes.labels, strict=True):
        expected[label, int(recognizer.predict(torch.from_numpy(code)[None]).argmax())] += 1
    np.testing.assert_array_equal(found.counts, expected)
    assert found.accuracy == pytest.approx(np.trace(expected) / 120)
    assert Confusion.of(json.loads(json.dumps(found.plain()))) == found
    with pytest.raises(UsageError, match="has clockwise, back, and a, b were learned"):
        confusion(ActionRecognizer(RecognitionConfig(("a", "b"), 2, "truth")), codes)


def test_shares_are_of_each_class() -> None:
    found = Confusion(("a", "b", "c"), ((6, 2, 0), (1, 1, 0), (0, 0, 0)))
    assert (found.accuracy, found.most_frequent) == (0.7, 0.8)
    np.testing.assert_array_equal(found.shares(), [[0.75, 0.25, 0], [0.5, 0.5, 0], [np.nan] * 3])


# Files


def test_a_file_holds_all_of_it(model: StructVRNN, tmp_path: Path) -> None:
    recognizer = ActionRecognizer(replace(SHAPE, source=code_source(model)), {"seed": 5})
    recognizer.save(tmp_path / "recognition.safetensors")
    loaded = ActionRecognizer.load(tmp_path / "recognition.safetensors")
    assert (loaded.config, loaded.provenance) == (recognizer.config, {"seed": 5})
    codes = torch.randn(3, 6, 5)
    assert torch.equal(loaded.predict(codes), recognizer.predict(codes))
    model.save(tmp_path / "model.safetensors")
    again = StructVRNN.load(tmp_path / "model.safetensors")
    with torch.no_grad():
        # Codes do not depend on dynamics.
        again.dynamics.gru.bias_hh[0] += 1
    loaded.require_model(again)
    with torch.no_grad():
        next(again.code.parameters()).add_(1e-4)
    with pytest.raises(UsageError, match="learned from the codes of another model"):
        loaded.require_model(again)
    with pytest.raises(UsageError, match=r"holds a 'struct_vrnn', not a recognition"):
        ActionRecognizer.load(tmp_path / "model.safetensors")


broken = st.one_of(
    st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=3), st.integers(-5, 10**9), st.lists(st.text())
)


@given(st.sampled_from(["classes", "inputs", "units", "dropout", "source", "other"]), broken)
def test_headers_that_do_not_fit_get_one_line(tmp_path_factory: pytest.TempPathFactory, name: str, value: Any) -> None:
    config = {"classes": list(WAYS), "inputs": 5, "source": "0", "units": 4, "dropout": 0.25}
    if config.get(name) == value or (name == "source" and isinstance(value, str)):
        return
    if name == "classes" and isinstance(value, list) and len(set(value)) == len(value) == 2 and all(value):
        return
    if name == "dropout" and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return
    path = tmp_path_factory.mktemp("broken") / "recognition.safetensors"
    header = {"format": 1, "model": "recognition", "config": config | {name: value}, "provenance": {}}
    save_tensors(path, dict(ActionRecognizer(SHAPE).state_dict()), header)
    with pytest.raises(UsageError) as refused:
        ActionRecognizer.load(path)
    assert "\n" not in str(refused.value)
