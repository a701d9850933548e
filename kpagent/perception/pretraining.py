"""Pretraining a detector on frame pairs: batches, what the loss weighs, held-out figures, and the run on disk."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kpagent.drawing import contact_sheet, draw_keypoints
from kpagent.errors import UsageError
from kpagent.files import write_json
from kpagent.frames import to_images
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.pruning import least_missed
from kpagent.perception.reconstructor import Reconstructor
from kpagent.perception.revival import revive
from kpagent.training import TrainingConfig, describe, train

STILL = 0.01
"""A keypoint whose standard deviation over frames is under this (in both axes) stands still."""
TOGETHER = 0.03
"""Two keypoints whose mean distance is under this have collapsed onto each other."""


class Pairs(Protocol):
    """Frame pairs, as `kpagent.collect.pairs.FramePairs` holds them."""

    @property
    def source(self) -> np.ndarray:
        """(N, S, S, 3) uint8."""

    @property
    def target(self) -> np.ndarray:
        """(N, S, S, 3) uint8."""


@dataclass(frozen=True)
class PretrainingConfig:
    """How a detector is pretrained. `paper` and `fast` are the presets."""

    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=6_000, anneal=True))
    """Steps, batch size, learning rate, precision, seed."""
    balance: float = 0.5
    """The squared error of a pixel is weighted by its variance over the frames to the power of minus this. At 0, the
    plain loss, what covers few pixels, like a ball, hardly counts; at 1 what moves everywhere drowns the rest."""
    tolerance: float = 5.0
    """Pairs much worse than this many times the mean loss of copying the source count only logarithmically: without
    it, gradient norms were seen to spike to hundreds of times their median. 0 turns it off."""
    revive_every: int = 250
    """Steps between two looks for a keypoint that is not missed when it is left out, which is then pointed at what is
    reconstructed worst; during the first 60% of the steps. 0 turns it off."""
    spare: int = 0
    """Keypoints that the model has more than are wanted: those that are missed least are dropped at the end."""
    mix: float = 0.0
    """Share of the pairs whose source frame is that of any other pair. What lies still all through an episode, and elsewhere
    in the next, moves only between frames of different episodes; where the camera or the scene changes, leave it at 0."""
    held_out: int = 500
    """Pairs that are never trained on; a tenth of the pairs, where that is less."""
    evaluate_every: int = 500
    """Steps between two looks at the held-out pairs."""

    @classmethod
    def paper(cls, **changes: Any) -> PretrainingConfig:
        """Appendix A: plain squared error, batches of 64, a million steps."""
        training = TrainingConfig(steps=1_000_000, batch_size=64)
        preset: dict[str, Any] = {"training": training, "balance": 0.0, "tolerance": 0.0, "revive_every": 0}
        return cls(**(preset | changes))

    @classmethod
    def fast(cls, **changes: Any) -> PretrainingConfig:
        """For the `fast` model on a CPU; the default everywhere."""
        return cls(**changes)

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise UsageError(f"balance must be from 0 to 1, not {self.balance}")
        if self.tolerance < 0 or self.revive_every < 0:
            raise UsageError(f"tolerance and revive_every must be at least 0; got {self}")
        if self.spare < 0:
            raise UsageError(f"spare must be at least 0, not {self.spare}")
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix must be from 0 to 1, not {self.mix}")
        if self.held_out < 2 or self.evaluate_every < 1:
            raise UsageError(f"held_out must be at least 2 and evaluate_every at least 1; got {self}")


@dataclass(frozen=True)
class Evaluation:
    """What held-out pairs say of a model."""

    loss: float
    """The training loss (weighted as in training) on them."""
    l2: float
    """Mean squared error, unweighted."""
    copy_loss: float
    """The loss of copying the source frame: what a model without keypoints can always reach."""
    still: tuple[int, ...]
    """Keypoints that do not move from frame to frame."""
    together: tuple[tuple[int, int], ...]
    """Pairs of keypoints that lie on each other."""

    @property
    def warning(self) -> str | None:
        """One line about keypoints that are wasted, if any are."""
        parts = []
        if self.still:
            parts.append(f"keypoints {', '.join(map(str, self.still))} stand still")
        if self.together:
            parts.append(f"keypoints {', '.join(f'{a} and {b}' for a, b in self.together)} lie on each other")
        return "; ".join(parts) or None


class PairBatches:
    """The batch of each step: pairs drawn at random, a function of the seed and the step alone.

    Args:
        pairs: N pairs; the last of them are kept back.
        config: batch size, seed and weighting.
        image_size: size of the loss weights, that of the model.

    Raises:
        UsageError: too few pairs.
    """

    def __init__(self, pairs: Pairs, config: PretrainingConfig, image_size: int) -> None:
        self.count = training_pairs(len(pairs.source), config)
        self.pairs = pairs
        self.batch_size = config.training.batch_size
        self.seed, self.mix = config.training.seed, config.mix
        self.constants: dict[str, Any] = {"weight": pixel_weights(pairs.target[: self.count], image_size, config.balance)}
        if config.tolerance:
            some = self._pairs(spread(np.arange(self.count), 500), np.random.default_rng(self.seed), 0, self.count)
            copying = copy_loss(some["source"], some["target"], self.constants["weight"])
            self.constants["tolerance"] = config.tolerance * max(float(copying), 1e-6)

    def __call__(self, step: int) -> dict[str, Any]:
        """Frames, `source` and `target`, (N, S, S, 3) uint8; `weight` and `tolerance`; `seed`, for what a loss draws."""
        return self._draw((self.seed, step), self.batch_size)

    def large(self, step: int) -> dict[str, Any]:
        """A batch at least four times as large, of other pairs."""
        return self._draw((self.seed, step, 1), max(64, 4 * self.batch_size))

    def held_out(self) -> dict[str, Any]:
        """All held-out pairs as one batch."""
        index = np.arange(self.count, len(self.pairs.target))
        return self._pairs(index, np.random.default_rng(0), self.count, len(self.pairs.target)) | self.constants

    def _draw(self, seed: tuple[int, ...], size: int) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        index = generator.integers(self.count, size=size)
        return self._pairs(index, generator, 0, self.count) | {"seed": seed} | self.constants

    def _pairs(self, index: np.ndarray, generator: np.random.Generator, first: int, end: int) -> dict[str, Any]:
        """Pairs by their index, some of them with the source of any other from `first` up to `end`."""
        sources = index
        if self.mix:
            others = generator.integers(first, end, size=len(index))
            sources = np.where(generator.random(len(index)) < self.mix, others, index)
        return {"source": self.pairs.source[sources], "target": self.pairs.target[index]}


def training_pairs(total: int, config: PretrainingConfig) -> int:
    """How many of `total` pairs are trained on; the rest is held out.

    Raises:
        UsageError: too few for one batch.
    """
    count = total - min(config.held_out, max(2, total // 10))
    if count < config.training.batch_size:
        raise UsageError(f"{total} pairs are too few: {count} to train on, where a batch is {config.training.batch_size}")
    return count


def pixel_weights(frames: np.ndarray, image_size: int, balance: float, *, sample: int = 2000) -> Tensor:
    """Weights of the squared error of each pixel, (variance + ε)^-balance, scaled so that variance keeps its mean.

    A pixel that is rarely anything but background has a small variance, so the little that happens there counts for more.
    ε, a fiftieth of the mean variance, bounds the weight of pixels where nothing ever happens.

    Args:
        frames: (N, S, S, 3) uint8.
        image_size: size of the weights.
        balance: the exponent, from 0 (all ones) to 1.
        sample: number of frames, spread evenly, from which the variance is estimated.

    Returns:
        (image_size, image_size), float32.
    """
    chosen = spread(frames, sample)
    total = torch.zeros(3, image_size, image_size)
    squares = torch.zeros(3, image_size, image_size)
    for start in range(0, len(chosen), 256):
        images = to_images(chosen[start : start + 256], image_size)
        total += images.sum(0)
        squares += images.square().sum(0)
    variance = (squares / len(chosen) - (total / len(chosen)).square()).clamp_min(0).mean(0)
    if not variance.any():
        return torch.ones(image_size, image_size)
    weight = (variance + variance.mean() / 50) ** -balance
    return weight * variance.mean() / (weight * variance).mean()


def copy_loss(source: np.ndarray, target: np.ndarray, weight: Tensor) -> Tensor:
    """The weighted squared error of taking the source frame for the target: what needs no keypoints.

    Args:
        source: (N, H, W, 3) uint8.
        target: (N, H, W, 3) uint8.
        weight: (S, S), of the pixels, at the size of the model.
    """
    size = len(weight)
    return ((to_images(source, size) - to_images(target, size)).square().mean(dim=1) * weight).mean()


@torch.no_grad()
def evaluate(model: KeypointDetector, batch: Mapping[str, Any], *, chunk: int = 64) -> Evaluation:
    """Measure a model on held-out pairs.

    Args:
        model: in any mode; it is put into evaluation mode.
        batch: as `PairBatches.held_out` gives.
        chunk: pairs at a time.
    """
    model.eval()
    count = len(batch["source"])
    sums = np.zeros(3)
    found = []
    for start in range(0, count, chunk):
        part = {name: batch[name][start : start + chunk] for name in ("source", "target")}
        loss, metrics = model.loss(part | {"weight": batch["weight"]})
        copied = copy_loss(part["source"], part["target"], batch["weight"])
        sums += np.array([float(loss), float(metrics["l2"]), float(copied)]) * len(part["source"])
        found.append(model.encode(part["target"], features=False).xy.cpu())
    xy = torch.cat(found)
    still = (xy.std(dim=0) < STILL).all(dim=-1).nonzero().flatten().tolist()
    apart = (xy[:, :, None] - xy[:, None]).norm(dim=-1).mean(dim=0)
    together = [(i, j) for i in range(xy.shape[1]) for j in range(i) if apart[i, j] < TOGETHER]
    loss_mean, l2, copying = sums / count
    return Evaluation(float(loss_mean), float(l2), float(copying), tuple(still), tuple((j, i) for i, j in together))


@dataclass(frozen=True)
class Report:
    """What a run of `pretrain` yields after each step."""

    step: int
    """Steps done, of `config.training.steps`."""
    loss: float | None
    """Mean training loss since the last report that had one."""
    evaluation: Evaluation | None
    """At every `config.evaluate_every`-th step and the last; once more, of what is left, when keypoints were dropped."""
    dropped: tuple[int, ...] = ()
    """Spare keypoints that were dropped from the best weights, after the last step."""


def pretrain(
    model: KeypointDetector,
    pairs: Pairs,
    config: PretrainingConfig,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[Report]:
    """Train a detector on frame pairs, keeping a run on disk that can be killed and taken up again.

    In `out`: `config.json`; `checkpoint.safetensors`, the state of the run; `best.safetensors`, the weights with the
    lowest held-out loss, for `kpagent.load`; `logs/`, for TensorBoard, with keypoints drawn on held-out frames. After the
    last step, `config.spare` keypoints are dropped from `best.safetensors`, and only there.

    Args:
        model: to train, on its device; it has the spare keypoints too.
        pairs: what to train on.
        config: how.
        out: folder of the run.
        provenance: where the pairs came from; it goes into the header of the weights, with steps, seed and figures.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: too few pairs; `out` holds a run and `resume` is not set, or a run of other settings;
            no keypoint would be left without the spare ones, or the method cannot tell which are missed.
    """
    require_spare(model, config)
    settings = {
        "method": model.kind,
        "model": describe(model.config),
        "pretraining": describe(config),
        "provenance": dict(provenance or {}),
    }
    checkpoint = out / "checkpoint.safetensors"
    training_pairs(len(pairs.source), config)
    _claim(out, checkpoint, settings, resume)
    batches = PairBatches(pairs, config, model.image_size)
    held_out = batches.held_out()
    if not checkpoint.exists():
        model.set_background(spread(pairs.target[: batches.count], 400))
    best = _best_loss(model, out / "best.safetensors") if checkpoint.exists() else math.inf
    return _run(model, batches, held_out, config, out, dict(provenance or {}), best, resume)


def require_spare(model: KeypointDetector, config: PretrainingConfig) -> None:
    """Refuse spare keypoints of which a model cannot tell which are missed, and more of them than it has.

    Raises:
        UsageError: so it is.
    """
    if config.spare and not isinstance(model, Reconstructor):
        raise UsageError(f"spare must be 0 for {model.kind}, which cannot paint a frame without some of its keypoints")
    if config.spare >= model.num_keypoints:
        raise UsageError(f"no keypoint would be left: {model.num_keypoints} in all, {config.spare} to spare")


def _run(
    model: KeypointDetector,
    batches: PairBatches,
    held_out: Mapping[str, Any],
    config: PretrainingConfig,
    out: Path,
    provenance: dict[str, Any],
    best: float,
    resume: bool,
) -> Iterator[Report]:
    from torch.utils.tensorboard import SummaryWriter

    steps = config.training.steps
    losses: list[Tensor] = []
    loop = train(model, batches, config.training, checkpoint=out / "checkpoint.safetensors", resume=resume)
    with SummaryWriter(out / "logs") as log, contextlib.closing(loop):  # type: ignore[type-var]
        for progress in loop:
            losses.append(progress.metrics["loss"])
            every = config.revive_every
            due = every and progress.step % every == 0 and progress.step <= 0.6 * steps
            if due and isinstance(model, Reconstructor):
                revive(model, batches.large(progress.step))
            loss = None
            if progress.step % 20 == 0 or progress.step == steps:
                loss = float(torch.stack(losses).mean())
                losses.clear()
                log.add_scalar("loss/train", loss, progress.step)
                log.add_scalar("time/step_ms", 1000 * progress.seconds, progress.step)
            if progress.step % config.evaluate_every and progress.step != steps:
                yield Report(progress.step, loss, None)
                continue
            evaluation = evaluate(model, held_out)
            for name in ("loss", "l2", "copy_loss"):
                log.add_scalar(f"held_out/{name}", getattr(evaluation, name), progress.step)
            log.add_image("held_out/keypoints", _picture(model, held_out["target"]), progress.step, dataformats="HWC")
            log.flush()
            if evaluation.loss < best:
                best = evaluation.loss
                model.provenance = provenance | {
                    "steps": progress.step,
                    "seed": config.training.seed,
                    "pretraining": describe(config),
                    "held_out": _figures(evaluation),
                    "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
                }
                model.save(out / "best.safetensors")
            yield Report(progress.step, loss, evaluation)
    if config.spare:
        yield from _drop_spare(model, held_out, config, out / "best.safetensors")


def _drop_spare(
    model: KeypointDetector, held_out: Mapping[str, Any], config: PretrainingConfig, path: Path
) -> Iterator[Report]:
    """Drop the spare keypoints from the best weights, unless an earlier end of this run did."""
    best = type(model).load(path, model.device)
    if best.num_keypoints != model.num_keypoints or not isinstance(best, Reconstructor):
        return
    dropped = least_missed(best, held_out, config.spare)
    pruned = best.select([k for k in range(best.num_keypoints) if k not in dropped])
    evaluation = evaluate(pruned, held_out)
    pruned.provenance = best.provenance | {"held_out": _figures(evaluation), "dropped": list(dropped)}
    pruned.save(path)
    yield Report(config.training.steps, None, evaluation, dropped)


def _figures(evaluation: Evaluation) -> dict[str, float]:
    return {"loss": evaluation.loss, "l2": evaluation.l2, "copy_loss": evaluation.copy_loss}


def spread(frames: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the frames, at even distances."""
    return frames[:: max(1, len(frames) // count)][:count]


def _claim(out: Path, checkpoint: Path, settings: Mapping[str, Any], resume: bool) -> None:
    path = out / "config.json"
    if checkpoint.exists() and not resume:
        raise UsageError(f"{out} holds a run already; add --resume to take it up, or choose another --out")
    if checkpoint.exists() and path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            was = _flat(before)
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{path} does not say how the run was started; choose another --out") from None
        # A run from before there were others.
        was = {"method": "transporter", "warm_up": 0} | was
        for name, value in _flat(settings).items():
            if was.get(name) != value:
                raise UsageError(f"the run in {out} has {name} {was.get(name)}, not {value}; resume it as it was started")
        if before.get("provenance") != json.loads(json.dumps(settings["provenance"])):
            raise UsageError(f"the run in {out} was trained on other frame pairs; resume it as it was started")
    write_json(path, settings)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by name alone."""
    pretraining = dict(settings["pretraining"])
    training = pretraining.pop("training")
    method = {"method": settings["method"]} if "method" in settings else {}
    return method | settings["model"] | pretraining | training


def _best_loss(model: KeypointDetector, path: Path) -> float:
    return float(type(model).load(path).provenance["held_out"]["loss"]) if path.exists() else math.inf


def _picture(model: KeypointDetector, frames: np.ndarray) -> np.ndarray:
    shown = spread(frames, 8)
    points = model.encode(shown, features=False).xy.cpu().numpy()
    return contact_sheet([draw_keypoints(frame, xy) for frame, xy in zip(shown, points, strict=True)], columns=4)
