"""Learning keyframes from sequences: the interpolator first, then the keyframes; the run on disk (KeyIn section 3.2)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kpagent.collect.sequences import Sequences
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import read_header
from kpagent.run_folder import claim
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.cuts import Cuts
from kpagent.subgoals.keyframe_model import KeyframeModel
from kpagent.subgoals.keyin import KeyIn
from kpagent.training import TrainingConfig, describe, train

Stage = Literal["interpolator", "keyframes", "joint"]

MODEL, BEST = "model.safetensors", "best.safetensors"
HELD_OUT = 128
"""Sequences that are looked at, where so many are held out."""

_CHECKPOINTS = {
    "interpolator": "checkpoint-interpolator.safetensors",
    "keyframes": "checkpoint-keyframes.safetensors",
    "joint": "checkpoint.safetensors",
}
# What the numbers drawn at a step are for; none is 0, since to NumPy seeds that differ in zeros at the end are the same.
_WINDOWS, _LOSS = 1, 2
_CHUNK = 32


@dataclass(frozen=True)
class LearningConfig:
    """How a KeyIn is learned. `paper` and `fast` are the presets."""

    joint: bool = False
    """Learn everything at once: the ablation that shows what two stages are for. Other models than KeyIn always do."""
    interpolator: TrainingConfig = field(default_factory=lambda: _training(6_000, 1e-3))
    """Of the first stage."""
    keyframes: TrainingConfig = field(default_factory=lambda: _training(10_000, 2e-3))
    """Of the second stage; of both, where everything is learned at once."""
    held_out: float = 0.1
    """Share of the sequences that is not learned from."""
    evaluate_every: int = 500
    """Steps between two looks at the held-out sequences."""

    @classmethod
    def paper(cls) -> LearningConfig:
        """Sections 4 and 6: 100,000 and 200,000 steps of 30 sequences, Adam at 2e-4."""
        plain: dict[str, Any] = {"batch_size": 30, "learning_rate": 2e-4, "decay": 1.0}
        first, second = (TrainingConfig(steps=steps, **plain) for steps in (100_000, 200_000))
        return cls(False, first, second, evaluate_every=2_000)

    @classmethod
    def fast(cls) -> LearningConfig:
        """Fewer steps, larger ones at the start; the default."""
        return cls()

    def __post_init__(self) -> None:
        checks = {
            "held_out must be above 0 and below 1": 0 < self.held_out < 1,
            "evaluate_every must be at least 1": self.evaluate_every >= 1,
        }
        require(self, checks)


@dataclass(frozen=True)
class Report:
    """What a run of `learn` yields after each step."""

    stage: Stage
    """What is being learned."""
    step: int
    """Steps of this stage done."""
    steps: int
    """Of how many."""
    loss: float | None
    """Mean training loss since the last report that had one."""
    held_out: Mapping[str, float] | None
    """At every `config.evaluate_every`-th step of a stage and its last: the loss of the stage on held-out sequences as
    `loss`, and its parts."""


def learn(
    model: KeyframeModel,
    sequences: Sequences | CodeSequences,
    config: LearningConfig,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[Report]:
    """Train a model on sequences, keeping a run on disk that can be killed and taken up again.

    In `out`: `config.json`; a checkpoint of each stage; `model.safetensors`, the model after the last step, and
    `best.safetensors`, the one with the lowest held-out loss of the last stage, both for `load` of the model; `logs/`, for
    TensorBoard. With `resume` a run gives, on one machine and number of threads, the parameters of one that ran through.

    Args:
        model: to train, on its device; with the same parameters when a run is taken up. Other models than KeyIn
            have one stage, and `config.keyframes` is of that.
        sequences: what to train on, frames or codes as the model takes them; a share of them is held out.
        config: how.
        out: folder of the run.
        provenance: where the sequences came from; it goes into the header of the weights, with steps, seed and figures.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: sequences that are not what the model takes; none of T + N frames to train on, or none
            among those held out; `out` holds a run and `resume` is not set, or a run of other settings.
    """
    require_data(model.config, sequences)
    training, others = sequences.split(config.held_out)
    length = model.config.length
    _require_length(training, length, "to train on")
    _require_length(others, length, "held out")
    about = {**(provenance or {}), "data": {"sequences": len(sequences), "digest": sequences.digest}}
    settings = {"model": model.config.to_dict(), "learning": describe(config), "provenance": about}
    claim(out, settings, begun=holds_run(out), resume=resume)
    return _Run(model, training, others.ordered(length, HELD_OUT), config, out, about, resume).go()


def require_data(config: KeyInConfig, sequences: Sequences | CodeSequences) -> None:
    """Refuse sequences that a model cannot learn from.

    Raises:
        UsageError: codes for a model of frames, frames for one of codes, or codes of another size.
    """
    size = sequences.size if isinstance(sequences, CodeSequences) else None
    if config.codec.kind == "frames" and size is not None:
        raise UsageError("the model learns from frames, and these are sequences of codes")
    if config.codec.kind == "codes" and size is None:
        raise UsageError("the model learns from codes, and these are sequences of frames; encode them first")
    if size is not None and size != config.codec.size:
        raise UsageError(f"the model learns from codes of {config.codec.size} numbers, and these have {size}")


def holds_run(out: Path) -> bool:
    """Whether a folder holds a run of `learn`, begun or finished."""
    return any((out / name).exists() for name in (*_CHECKPOINTS.values(), MODEL))


class SequenceBatches:
    """Windows of sequences, the same whenever a step's are asked for.

    Args:
        sequences: frames or codes.
        length: frames of a window.
        training: batch size and seed.
        cuts: of these sequences, for a model that is guided; those of a batch are then in it.
    """

    def __init__(
        self, sequences: Sequences | CodeSequences, length: int, training: TrainingConfig, cuts: Cuts | None = None
    ) -> None:
        self.sequences, self.length, self.training, self.cuts = sequences, length, training, cuts
        self.name = "codes" if isinstance(sequences, CodeSequences) else "frames"

    def __call__(self, step: int) -> dict[str, Any]:
        """`frames` (B, L, S, S, 3) uint8 or `codes` (B, L, D), beside `seed`, `progress` and perhaps `cuts`."""
        seed, size = self.training.seed, self.training.batch_size

        def draws() -> np.random.Generator:
            return np.random.default_rng((seed, step, _WINDOWS))

        windows = self.sequences.windows(size, self.length, draws())
        progress = step / self.training.steps
        batch = {self.name: windows[self.name], "seed": (seed, step, _LOSS), "progress": progress}
        if self.cuts is not None and progress < self.cuts.interpolator.config.guide_share:
            guided = slice(self.cuts.interpolator.config.guided)
            batch["cuts"] = self.cuts(*(part[guided] for part in self.sequences.draw(size, self.length, draws())))
        return batch


def guiding_cuts(model: KeyIn, sequences: Sequences | CodeSequences, training: TrainingConfig) -> Cuts | None:
    """The cuts by which a second stage is guided; None where none is, or where most would be asked for only once.

    Args:
        model: whose interpolator has learned.
        sequences: to learn from.
        training: of the second stage.
    """
    config = model.config
    windows = config.guide_share * training.steps * min(config.guided, training.batch_size)
    return Cuts(model.interpolator, sequences) if sequences.lengths.sum() < windows * config.frames else None


class _Run:
    """A run that was found to be possible."""

    def __init__(
        self,
        model: KeyframeModel,
        training: Sequences | CodeSequences,
        held_out: Mapping[str, Any],
        config: LearningConfig,
        out: Path,
        about: dict[str, Any],
        resume: bool,
    ) -> None:
        self.model, self.training, self.config, self.out = model, training, config, out
        self.about, self.resume = about, resume
        self.held_out = held_out[model.config.codec.kind]
        self.last: Stage = "keyframes" if isinstance(model, KeyIn) and not config.joint else "joint"

    def go(self) -> Iterator[Report]:
        # Torch's writer of TensorBoard files takes a second to import.
        from torch.utils.tensorboard import SummaryWriter

        model = self.model
        with SummaryWriter(self.out / "logs") as log:
            if isinstance(model, KeyIn) and self.last == "keyframes":
                yield from self._stage("interpolator", model.interpolator, self.config.interpolator, log)
                model.interpolator.requires_grad_(False)
            figures = yield from self._stage(self.last, model, self.config.keyframes, log)
        model.requires_grad_(True)
        if figures is None and (self.out / MODEL).exists():
            # Nothing was left to do.
            model.provenance = read_header(self.out / MODEL)["provenance"]
        else:
            self._save(MODEL, self.config.keyframes.steps, figures or self._evaluate(self.last))
        model.eval()

    def _stage(
        self, stage: Stage, part: nn.Module, training: TrainingConfig, log: Any
    ) -> Generator[Report, None, Mapping[str, float] | None]:
        """Train a part of the model; the generator's value is the last evaluation, or None where no step was left."""
        cuts = None
        if stage == "keyframes" and isinstance(self.model, KeyIn):
            cuts = guiding_cuts(self.model, self.training, training)
        batches = SequenceBatches(self.training, self.model.config.length, training, cuts)
        losses: list[Tensor] = []
        best = self._best_loss() if stage == self.last else math.inf
        figures = None
        loop = train(part, batches, training, checkpoint=self.out / _CHECKPOINTS[stage], resume=self.resume)
        with contextlib.closing(loop):  # type: ignore[type-var]
            for progress in loop:
                step = progress.step
                losses.append(progress.metrics["loss"])
                loss, figures = None, None
                if step % 20 == 0 or step == training.steps:
                    loss = float(torch.stack(losses).mean())
                    losses.clear()
                    parts = {name: float(value) for name, value in progress.metrics.items() if name != "loss"}
                    _log(log, stage, {"loss": loss, "step_ms": 1000 * progress.seconds, **parts}, step)
                if step % self.config.evaluate_every == 0 or step == training.steps:
                    figures = self._evaluate(stage)
                    _log(log, f"{stage}_held_out", figures, step)
                    if stage == self.last and figures["loss"] < best:
                        best = figures["loss"]
                        self._save(BEST, step, figures)
                yield Report(stage, step, training.steps, loss, figures)
        return figures

    @torch.no_grad()
    def _evaluate(self, stage: Stage) -> Mapping[str, float]:
        """The mean loss of the held-out sequences and its parts, with the same numbers drawn each time."""
        part: Any = self.model.interpolator if stage == "interpolator" else self.model
        sums: dict[str, float] = {}
        for start in range(0, len(self.held_out), _CHUNK):
            piece = self.held_out[start : start + _CHUNK]
            loss, metrics = part.loss({self.model.config.codec.kind: piece, "seed": (0, start, _LOSS)})
            for name, value in ({"loss": loss} | metrics).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(piece)
        return {name: value / len(self.held_out) for name, value in sums.items()}

    def _save(self, name: str, step: int, figures: Mapping[str, float]) -> None:
        self.model.provenance = self.about | {
            "steps": step,
            "seed": self.config.keyframes.seed,
            "learning": describe(self.config),
            "held_out": dict(figures),
            "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
        }
        self.model.save(self.out / name)

    def _best_loss(self) -> float:
        """Of the run that is taken up; infinite where its last stage has not begun."""
        begun = self.resume and (self.out / _CHECKPOINTS[self.last]).exists()
        if not begun or not (self.out / BEST).exists():
            return math.inf
        return float(read_header(self.out / BEST)["provenance"]["held_out"]["loss"])


def _training(steps: int, learning_rate: float) -> TrainingConfig:
    return TrainingConfig(steps=steps, batch_size=30, learning_rate=learning_rate, warm_up=200, anneal=True)


def _require_length(sequences: Sequences | CodeSequences, length: int, what: str) -> None:
    longest = int(sequences.lengths.max())
    if longest < length:
        raise UsageError(f"of the sequences {what} the longest has {longest} frames, where {length} are needed")


def _log(log: Any, group: str, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        log.add_scalar(f"{group}/{name}", value, step)
