"""Learning to recognise actions from codes that stay as they are; the run on disk (Struct-VRNN S2.1 of the preprint)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.recognition import SMALLEST_SCALE, ActionRecognizer, RecognitionConfig, code_source
from kpagent.dynamics.recognition_accuracy import Confusion, confusion
from kpagent.dynamics.recognition_codes import LabelledCodes, require_labels
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.fields import require
from kpagent.run_folder import claim
from kpagent.training import TrainingConfig, describe, train

MODEL = "recognition.safetensors"
CHECKPOINT = "checkpoint-recognition.safetensors"
FALLS = 4
"""Of the learning rate, evenly spread, together to a hundredth."""

_BATCH = 6
"""Of the numbers that are drawn: none is 0, since to NumPy seeds that differ in zeros at the end are the same."""


@dataclass(frozen=True)
class RecognitionLearningConfig:
    """How actions are learned; `of` makes one."""

    training: TrainingConfig
    """Adam's; a batch has so many windows."""
    length: int = 20
    """Frames of a window."""
    units: int = 128
    """Of each GRU."""
    dropout: float = 0.25
    """After each GRU."""
    held_out: float = 0.2
    """Share of the sequences that is not learned from."""
    evaluate_every: int = 250
    """Steps between two looks at the held-out sequences."""

    def __post_init__(self) -> None:
        checks = {
            "length must be at least 1": self.length >= 1,
            "units must be from 1 to 4096": 1 <= self.units <= 4096,
            "dropout must be at least 0 and below 1": 0 <= self.dropout < 1,
            "held_out must be above 0 and below 1": 0 < self.held_out < 1,
            "evaluate_every must be at least 1": self.evaluate_every >= 1,
        }
        require(self, checks)

    @classmethod
    def of(cls, steps: int = 3_000, seed: int = 0, **changes: Any) -> RecognitionLearningConfig:
        """S2.1: Adam at 0.01, falling to 1e-4 in equal parts of the training.

        Args:
            steps: of the optimiser; the paper has 100 epochs.
            seed: of parameters, batches and dropout.
            changes: of the other fields.
        """
        training = TrainingConfig(
            steps=steps,
            batch_size=32,
            learning_rate=1e-2,
            decay=0.01 ** (1 / FALLS),
            decay_every=max(1, steps // (FALLS + 1)),
            precision="float32",
            seed=seed,
        )
        return cls(training, **changes)


@dataclass(frozen=True)
class RecognitionReport:
    """What a run of `learn_recognition` yields as it goes on."""

    stage: Literal["encoding", "held out", "learning"]
    """What is being done: codes of the windows to learn from, of those held out, or steps."""
    step: int
    """Windows or steps done."""
    steps: int
    """Of how many."""
    confusion: Confusion | None = None
    """Of held-out windows; at every `evaluate_every`-th step and the last."""


def learn_recognition(
    model: StructVRNN | None,
    sequences: Sequences,
    config: RecognitionLearningConfig,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[RecognitionReport]:
    """Train an `ActionRecognizer`, keeping a run on disk that can be killed and taken up again.

    In `out`: `config.json`, a checkpoint, `recognition.safetensors` for `ActionRecognizer.load`, `logs/` for TensorBoard.
    Codes are computed anew when a run is taken up; with `resume` it gives, on one machine and number of threads, the
    parameters of one that ran through.

    Args:
        model: whose codes are read; it stays as it is. Without, true positions are.
        sequences: with labels; a share of them is held out, and no window of theirs is learned from.
        config: how.
        out: folder of the run.
        provenance: where model and sequences came from; it goes into the header.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: what `require_labels` and `LabelledCodes` refuse; `out` holds a run and `resume` is not
            set, or one of other settings.
    """
    training, others = sequences.split(config.held_out)
    require_labels(sequences, training, config.length)
    # What the two sides need is refused before anything is encoded.
    seen, unseen = (LabelledCodes(part, model, config.length) for part in (training, others))
    shape = RecognitionConfig(seen.classes, seen.codes.shape[-1], code_source(model), config.units, config.dropout)
    data = {"name": sequences.header["name"], "sequences": len(sequences), "digest": sequences.digest}
    trained = {} if model is None else model.provenance
    about = {**(provenance or {}), "data": data, "codes": {"source": shape.source, "trained": trained}}
    settings = {"learning": describe(config), "provenance": about}
    claim(out, settings, begun=holds_recognition(out), resume=resume)
    return _run(shape, seen, unseen, config, out, about, resume)


def holds_recognition(out: Path) -> bool:
    """Whether a folder holds a run of `learn_recognition`, begun or finished."""
    return any((out / name).exists() for name in (CHECKPOINT, MODEL))


class LabelledBatches:
    """Windows drawn at random, the same whenever a step's are asked for; for `ActionRecognizer.loss`.

    Args:
        codes: to draw from.
        training: batch size and seed.
    """

    def __init__(self, codes: LabelledCodes, training: TrainingConfig) -> None:
        self.codes, self.training = codes, training

    def __call__(self, step: int) -> dict[str, Any]:
        """As of `ActionRecognizer.loss`."""
        generator = np.random.default_rng((self.training.seed, step, _BATCH))
        rows = generator.integers(len(self.codes), size=self.training.batch_size)
        seed = int(generator.integers(2**62))
        return {"codes": self.codes.codes[rows], "labels": self.codes.labels[rows], "seed": seed}


def new_recognizer(shape: RecognitionConfig, codes: LabelledCodes, seed: int) -> ActionRecognizer:
    """A recogniser with random weights that knows how large codes are.

    Args:
        shape: its configuration.
        codes: those that will be learned from.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recognizer = ActionRecognizer(shape)
    rows = codes.codes.reshape(-1, shape.inputs)
    recognizer.code_mean.copy_(torch.from_numpy(rows.mean(axis=0, dtype=np.float64)))
    recognizer.code_scale.copy_(torch.from_numpy(rows.std(axis=0, dtype=np.float64)).clamp_min(SMALLEST_SCALE))
    return recognizer


def _run(
    shape: RecognitionConfig,
    seen: LabelledCodes,
    unseen: LabelledCodes,
    config: RecognitionLearningConfig,
    out: Path,
    about: Mapping[str, Any],
    resume: bool,
) -> Iterator[RecognitionReport]:
    # Torch's writer of TensorBoard files takes a second to import.
    from torch.utils.tensorboard import SummaryWriter

    if (out / MODEL).exists():
        return
    for done in seen.encode():
        yield RecognitionReport("encoding", done, len(seen))
    for done in unseen.encode():
        yield RecognitionReport("held out", done, len(unseen))
    training, device = config.training, "cpu" if seen.model is None else seen.model.device
    recognizer = new_recognizer(shape, seen, training.seed).to(device)
    found = None
    losses: list[Tensor] = []
    with SummaryWriter(out / "logs") as log:
        loop = train(recognizer, LabelledBatches(seen, training), training, checkpoint=out / CHECKPOINT, resume=resume)
        with contextlib.closing(loop):  # type: ignore[type-var]
            for progress in loop:
                step, found = progress.step, None
                losses.append(progress.metrics["loss"])
                if step % 20 == 0 or step == training.steps:
                    log.add_scalar("recognition/loss", float(torch.stack(losses).mean()), step)
                    log.add_scalar("recognition/accuracy_in_training", float(progress.metrics["accuracy"]), step)
                    losses.clear()
                if step % config.evaluate_every == 0 or step == training.steps:
                    found = confusion(recognizer, unseen)
                    log.add_scalar("recognition/accuracy", found.accuracy, step)
                yield RecognitionReport("learning", step, training.steps, found)
    found = found or confusion(recognizer, unseen)
    recognizer.provenance = dict(about) | {
        "steps": training.steps,
        "seed": training.seed,
        "learning": describe(config),
        "held_out": found.plain(),
        "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
    }
    recognizer.save(out / MODEL)
