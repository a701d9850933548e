"""Learning a Struct-VRNN from sequences: all at once, or the code first and its dynamics afterwards; the run on disk."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.frame_code import KeypointCode
from kpagent.dynamics.learning_batches import CodeBatches, EncodedSequences, FrameBatches
from kpagent.dynamics.learning_evaluation import Evaluation, HeldOut, ImageFigures
from kpagent.dynamics.learning_log import LearningLog
from kpagent.dynamics.motion_start import MotionStart, MotionStartConfig, start_frames
from kpagent.dynamics.rollouts import film, keypoint_sheet, rebuild, roll_out
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import read_header
from kpagent.run_folder import claim
from kpagent.training import Batches, TrainingConfig, describe, train

Stage = Literal["start", "joint", "code", "encoding", "dynamics"]

MODEL, BEST = "model.safetensors", "best.safetensors"

_CHECKPOINTS = {
    "joint": "checkpoint.safetensors",
    "code": "checkpoint-code.safetensors",
    "dynamics": "checkpoint-dynamics.safetensors",
}
# Frames of a picture with keypoints, and futures in a film.
_PICTURE, _FUTURES = 8, 3


@dataclass(frozen=True)
class LearningConfig:
    """How a Struct-VRNN is learned. `paper` and `fast` are the presets.

    Two stages minimise the same objective as one. Eq. 9 is a sum of two: losses of the code, which depend on its
    parameters alone, and losses of the dynamics, whose errors do not reach the code (section 4.1). So nothing that the
    dynamics learn changes what the code learns, and, as Adam scales the gradient of every parameter by itself, not even the
    size of its steps. Dynamics that learn at the same time learn codes that still change, and end on those of the finished
    code; in two stages they see those from the first step on. Then every frame is encoded once instead of at every
    step, each stage has the batches that suit it, and a window of the code needs no future (its separation loss compares
    trajectories over its own frames).
    """

    start: MotionStartConfig | None = field(default_factory=MotionStartConfig)
    """How keypoints begin, where nothing else says what each of them is to follow; None leaves them as random weights do."""
    joint: bool = False
    """Learn code and dynamics at once, as the paper does; else one after the other."""
    learn_code: bool = True
    """False keeps the code as it comes, and learns dynamics alone."""
    code: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=4_000, batch_size=8, warm_up=250, anneal=True))
    """How the code is learned; both, where they are learned at once. Its warm-up keeps the detector's start: while nothing
    can be painted yet, the image loss is least without keypoints, and would put them out."""
    dynamics: TrainingConfig = field(default_factory=lambda: TrainingConfig(anneal=True, precision="float32"))
    """How the dynamics are learned on codes. In float32: bfloat16 would round coordinates to an eighth of a pixel of 64."""
    code_length: int = 8
    """Frames of a window from which the code is learned, where it is learned first."""
    mix: float = 0.0
    """Share of these windows whose frames come from different sequences of one class; so does the first, from which the
    others are painted. Then whatever differs between sequences needs a keypoint, also what stands still in each, such as an
    obstacle; else what moves alone does."""
    held_out: float = 0.1
    """Share of the sequences that is not learned from."""
    evaluate_every: int = 500
    """Steps between two looks at the held-out sequences."""

    @classmethod
    def paper(cls) -> LearningConfig:
        """S1.2: at once, 100,000 steps of 32 sequences, a learning rate of 1e-3 that is halved every 30,000 steps."""
        training = TrainingConfig(steps=100_000, batch_size=32, learning_rate=1e-3, decay=0.5, decay_every=30_000)
        return cls(start=None, joint=True, code=training, evaluate_every=2_000)

    @classmethod
    def fast(cls) -> LearningConfig:
        """In two stages, for the `fast` model on a CPU; the default."""
        return cls()

    def __post_init__(self) -> None:
        checks = {
            "code_length must be at least 2": self.code_length >= 2,
            "learn_code must be set where all is learned at once": self.learn_code or not self.joint,
            "mix must be from 0 to 1": 0 <= self.mix <= 1,
            "mix must be 0 where all is learned at once, for the dynamics learn from the same frames": not (
                self.mix and self.joint
            ),
            "held_out must be above 0 and below 1": 0 < self.held_out < 1,
            "evaluate_every must be at least 1": self.evaluate_every >= 1,
        }
        require(self, checks)


@dataclass(frozen=True)
class Report:
    """What a run of `learn` yields as it goes on."""

    stage: Stage
    """What is being done."""
    step: int
    """Steps of this stage done; frames encoded, between code and dynamics."""
    steps: int
    """Of how many."""
    loss: float | None
    """Mean training loss since the last report that had one."""
    evaluation: Evaluation | None
    """At every `config.evaluate_every`-th step of a stage and its last."""


def require_data(config: StructVRNNConfig, where: str, *, points: int, actions: int) -> None:
    """Refuse sequences that lack what a model learns from.

    Args:
        config: of the model.
        where: the sequences come from, for the message.
        points: P of the true positions that are known; 0 without.
        actions: A, numbers in an action; 0 without.

    Raises:
        UsageError: a supervised form without true positions, or with more of them than keypoints; actions of another width.
    """
    if config.code.supervision and not points:
        raise UsageError(f"a supervised form needs true positions, and {where} has none")
    if config.code.supervision and points > config.code.num_keypoints:
        count = config.code.num_keypoints
        raise UsageError(f"{where} has {points} true positions a frame, and the model {count} keypoints for them")
    if config.dynamics.actions and config.dynamics.actions != actions:
        found = f"actions of {actions} numbers" if actions else "no actions"
        raise UsageError(f"the model takes actions of {config.dynamics.actions} numbers, and {where} has {found}")


def learn(
    model: StructVRNN,
    sequences: Sequences,
    config: LearningConfig,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[Report]:
    """Train a model on sequences, keeping a run on disk that can be killed and taken up again.

    In `out`: `config.json`; `checkpoint-code.safetensors` and `checkpoint-dynamics.safetensors`, the state of the two
    stages, or `checkpoint.safetensors`; `model.safetensors`, the model after the last step, and `best.safetensors`, the one
    with the lowest held-out loss (of its dynamics, once its code is finished), both for `StructVRNN.load`; `logs/`, for
    TensorBoard. With `resume` a run gives, on one machine and number of threads, the parameters of one that ran through.

    Args:
        model: to train, on its device; with the same parameters when a run is taken up, since a checkpoint of the code has
            none of the dynamics.
        sequences: what to train on; a share of them is held out.
        config: how.
        out: folder of the run.
        provenance: where the sequences came from; it goes into the header of the weights, with steps, seed and figures.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: no sequence of T + ΔT frames to train on, or none among those held out; what
            `require_data` refuses; `out` holds a run and `resume` is not set, or a run of other settings.
    """
    where = str(sequences.path)
    require_data(model.config, where, points=len(sequences.truth_names), actions=sequences.action_dim)
    length = model.config.dynamics.observed + model.config.dynamics.predicted
    training, others = sequences.split(config.held_out)
    training.num_ordered(length if config.joint else max(length, config.code_length))
    held_out = HeldOut(others, model.config)
    source = {name: sequences.header[name] for name in ("source", "name", "seed")}
    about = {**(provenance or {}), "data": source | {"sequences": len(sequences), "digest": sequences.digest}}
    settings = {"model": model.config.to_dict(), "learning": describe(config), "provenance": about}
    claim(out, settings, begun=holds_run(out), resume=resume)
    return _Run(model, training, held_out, config, out, about, resume).go()


def holds_run(out: Path) -> bool:
    """Whether a folder holds a run of `learn`, begun or finished."""
    return any((out / name).exists() for name in (*_CHECKPOINTS.values(), MODEL))


class _Run:
    """A run that was found to be possible."""

    def __init__(
        self,
        model: StructVRNN,
        training: Sequences,
        held_out: HeldOut,
        config: LearningConfig,
        out: Path,
        about: dict[str, Any],
        resume: bool,
    ) -> None:
        self.model, self.training, self.held_out = model, training, held_out
        self.config, self.out, self.about, self.resume = config, out, about, resume
        self.length = model.config.dynamics.observed + model.config.dynamics.predicted
        self.last: Stage = "joint" if config.joint else "dynamics"
        # Of the finished code, which does not change while its dynamics are learned.
        self.image: ImageFigures | None = None
        self.codes: Tensor | None = None

    def go(self) -> Iterator[Report]:
        model, config = self.model, self.config
        evaluation = None
        with LearningLog(self.out / "logs") as log:
            if not self._steps_done("joint" if config.joint else "code"):
                yield from self._start()
            if config.joint:
                batches = FrameBatches(self.training, self.length, config.code, model.config)
                evaluation = yield from self._stage("joint", model, batches, config.code, log)
            else:
                if config.learn_code:
                    batches = FrameBatches(self.training, config.code_length, config.code, model.config, mix=config.mix)
                    yield from self._stage("code", model.code, batches, config.code, log)
                encoded = EncodedSequences(self.training, model)
                if self._steps_done("dynamics") < config.dynamics.steps:
                    model.eval()
                    for done in encoded.encode():
                        yield Report("encoding", done, self.training.num_frames, None, None)
                codes = CodeBatches(encoded, self.length, config.dynamics)
                self.image, self.codes = self.held_out.image_figures(model), self.held_out.codes(model)
                evaluation = yield from self._stage("dynamics", model.dynamics, codes, config.dynamics, log)
        if evaluation is None and (self.out / MODEL).exists():
            # Nothing was left to do.
            model.provenance = read_header(self.out / MODEL)["provenance"]
        else:
            steps = (config.code if config.joint else config.dynamics).steps
            self._save(MODEL, steps, evaluation or self._evaluate(self.last))
        model.eval()

    def _start(self) -> Iterator[Report]:
        """Let the keypoints begin on what moves; not those that true positions pull elsewhere."""
        config, code = self.config.start, self.model.code
        if config is None or not self.config.learn_code:
            return
        if not isinstance(code, KeypointCode) or code.config.supervision:
            return
        training = config.training(self.config.code.seed, self.config.code.precision)
        frames = start_frames(self.training, config, training.seed, mix=self.config.mix)
        start = MotionStart(code, frames, config, training.seed)
        if not len(start.colors):
            return
        for progress in train(start, start.batch, training):
            yield Report("start", progress.step, config.steps, None, None)

    def _stage(
        self, stage: Stage, part: nn.Module, batches: Batches, training: TrainingConfig, log: LearningLog
    ) -> Generator[Report, None, Evaluation | None]:
        """Train a part of the model; the generator's value is the last evaluation, or None where no step was left."""
        losses: list[Tensor] = []
        best = self._best_loss() if stage == self.last else math.inf
        evaluation = None
        loop = train(part, batches, training, checkpoint=self.out / _CHECKPOINTS[stage], resume=self.resume)
        with contextlib.closing(loop):  # type: ignore[type-var]
            for progress in loop:
                step = progress.step
                losses.append(progress.metrics["loss"])
                loss = None
                if step % 20 == 0 or step == training.steps:
                    loss = float(torch.stack(losses).mean())
                    losses.clear()
                    parts = {name: float(value) for name, value in progress.metrics.items() if name != "loss"}
                    log.scalars(stage, {"loss": loss, "step_ms": 1000 * progress.seconds, **parts}, step)
                if step % self.config.evaluate_every and step != training.steps:
                    yield Report(stage, step, training.steps, loss, None)
                    continue
                evaluation = self._evaluate(stage)
                log.evaluation(stage, evaluation, step)
                self._show(stage, log, step)
                if stage == self.last and evaluation.loss < best:
                    best = evaluation.loss
                    self._save(BEST, step, evaluation)
                yield Report(stage, step, training.steps, loss, evaluation)
        return evaluation

    def _evaluate(self, stage: Stage) -> Evaluation:
        image = self.image or self.held_out.image_figures(self.model)
        if stage == "code":
            return Evaluation(image.loss, image, None)
        codes = self.held_out.codes(self.model) if self.codes is None else self.codes
        future = self.held_out.future_figures(self.model, codes)
        return Evaluation(image.loss + future.loss if stage == "joint" else future.loss, image, future)

    def _show(self, stage: Stage, log: LearningLog, step: int) -> None:
        """Keypoints on held-out frames, and what is painted from them beside what was there."""
        frames, actions = self.held_out.frames, self.held_out.actions
        if self.model.config.code.has_keypoints and stage != "dynamics":
            log.picture(f"{stage}/keypoints", keypoint_sheet(self.model, frames[:_PICTURE, 0]), step)
        if stage == "code":
            shown = rebuild(self.model, frames[0])
        else:
            steps = self.model.config.dynamics.predicted
            given = None if actions is None else actions[0]
            shown = roll_out(self.model, frames[0], steps=steps, samples=_FUTURES, actions=given)
        log.film(f"{stage}/film", list(film(shown, scale=max(1, 128 // self.model.image_size))), step)

    def _save(self, name: str, step: int, evaluation: Evaluation) -> None:
        self.model.provenance = self.about | {
            "steps": step,
            "seed": self.config.code.seed,
            "learning": describe(self.config),
            "held_out": evaluation.figures(),
            "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
        }
        self.model.save(self.out / name)

    def _steps_done(self, stage: Stage) -> int:
        path = self.out / _CHECKPOINTS[stage]
        return int(read_header(path).get("step", 0)) if path.exists() else 0

    def _best_loss(self) -> float:
        if not self._steps_done(self.last) or not (self.out / BEST).exists():
            return math.inf
        return float(read_header(self.out / BEST)["provenance"]["held_out"]["loss"])
