"""What an agent that plans learns from its episodes: keypoints, then dynamics and rewards on them, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.control_model import ControlModel
from kpagent.collect.episodes import Episode, EpisodeReplay
from kpagent.dynamics.motion_start import MotionStart, MotionStartConfig
from kpagent.files import load_tensors, require_fit, save_tensors
from kpagent.training import Progress, TrainingConfig, train

_START, _CODE, _WORLD, _LOSS = 11, 12, 13, 14
"""Of the numbers that are drawn: none is 0, since to NumPy seeds that differ in zeros at the end are the same."""


@dataclass(frozen=True)
class ControlTraining:
    """How keypoints and dynamics are learned."""

    start: MotionStartConfig = field(default_factory=MotionStartConfig)
    """How keypoints begin."""
    code: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=2_000, batch_size=8, warm_up=250, anneal=True))
    """Of the keypoints, from the first random episodes."""
    code_again: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=500, batch_size=8, learning_rate=5e-4, warm_up=50, anneal=True)
    )
    """Of the keypoints, each time that they learn on."""
    code_length: int = 8
    """Frames of a row of a batch, whose keypoints must move differently (the separation loss)."""
    world: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=32, decay=1.0, precision="float32"))
    """Of dynamics and rewards; its steps are not used."""

    @classmethod
    def of(cls, code_steps: int) -> ControlTraining:
        """The keypoints learn for so many steps at first, and for a quarter of them each time later."""
        base = cls()
        return cls(
            start=replace(base.start, steps=min(base.start.steps, code_steps)),
            code=replace(base.code, steps=code_steps),
            code_again=replace(base.code_again, steps=max(1, code_steps // 4)),
        )


def learn_code(
    model: ControlModel, replay: EpisodeReplay, config: ControlTraining, *, stage: int, seed: int, checkpoint: Path
) -> Iterator[tuple[str, int, int]]:
    """Learn the keypoints of a model, from the start or on; taken up where it was killed.

    A row of a batch is of frames of different episodes, and so is the first, from which the others are painted. So whatever
    differs between episodes needs a keypoint, also what stands still in each, such as a target.

    Args:
        model: whose code learns.
        replay: to learn from.
        config: how.
        stage: 0 begins, others go on.
        seed: of the batches.
        checkpoint: file of its state.

    Yields:
        What is learned (start, code), steps done, and of how many.
    """
    training = config.code if stage == 0 else config.code_again
    if stage == 0 and not checkpoint.exists():
        frames = replay.frames(config.start.sequences, 16, np.random.default_rng((seed, _START)))
        start = MotionStart(model.code, frames, config.start, seed)
        if len(start.colors):
            for progress in train(start, start.batch, config.start.training(seed, training.precision)):
                yield "start", progress.step, config.start.steps

    def batch(step: int) -> dict[str, Any]:
        generator = np.random.default_rng((seed, stage, step, _CODE))
        return {"frames": replay.frames(training.batch_size, config.code_length, generator)}

    for progress in train(model.code, batch, training, checkpoint=checkpoint, resume=True):
        yield "code", progress.step, training.steps


def learn_world(
    model: ControlModel, replay: EpisodeReplay, config: ControlTraining, *, steps: int, seed: int, checkpoint: Path
) -> Iterator[Progress]:
    """Learn dynamics and rewards up to a number of steps altogether, from where the checkpoint is.

    Args:
        model: in which they learn; its code does not change.
        replay: whose episodes have been encoded.
        config: how.
        steps: altogether, those of the checkpoint included.
        seed: of the batches.
        checkpoint: file of its state; its units of codes and rewards are left as they are in the model.
    """
    length = model.observed + model.config.dynamics.predicted

    def batch(step: int) -> Mapping[str, Any]:
        generator = np.random.default_rng((seed, step, _WORLD))
        windows = replay.windows(config.world.batch_size, length, model.observed - 1, generator)
        return {**windows, "seed": (seed, step, _LOSS)}

    part = _World(model)
    yield from train(part, batch, replace(config.world, steps=steps), checkpoint=checkpoint, resume=True)
    model.train(False)


def encode(model: ControlModel, episode: Episode) -> Tensor:
    """Codes (T + 1, D) of an episode, the same whenever they are asked for."""
    return model.encode(episode.frames())


def keep_code(path: Path, model: ControlModel) -> None:
    """Write the code of a model, and the units of codes and rewards."""
    units = {name: value for name, value in model.state_dict().items() if name in _UNITS}
    save_tensors(path, _code(model) | units, {"model": "control_code"})


def take_code(path: Path, model: ControlModel) -> None:
    """Read what `keep_code` wrote.

    Raises:
        UsageError: damaged, or of a model of another shape.
    """
    tensors, _ = load_tensors(path)
    wanted = _code(model) | {name: value for name, value in model.state_dict().items() if name in _UNITS}
    require_fit(path, tensors, wanted)
    model.load_state_dict(model.state_dict() | tensors)


class _World(torch.nn.Module):
    """What learns of a model while its code does not: no checkpoint needs that."""

    def __init__(self, model: ControlModel) -> None:
        super().__init__()
        self.dynamics, self.head = model.world.dynamics, model.head
        self._loss = model.loss

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """As of `ControlModel`."""
        return self._loss(batch)


_UNITS = ("code_mean", "code_scale", "reward_mean", "reward_scale")


def _code(model: ControlModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("world.code.")}
