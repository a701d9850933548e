"""The one training loop: device, precision, optimiser, checkpoints that a killed run takes up exactly, metrics.

Every trainable is `loss(batch) -> (loss, metrics)` and a stream of batches is a function of the step, so nothing but the
parameters, the optimiser and the step number makes up the state of a run. The loop is a generator; progress bars, logs
and evaluation listen to what it yields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import load_tensors, save_tensors

Precision = Literal["auto", "bf16", "float32"]
Batches = Callable[[int], Mapping[str, Any]]
"""The batch of a step, the same whenever it is asked for."""


class Trainable(Protocol):
    """What the loop can train: any `torch.nn.Module` with a loss."""

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and scalars to log."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to optimise. The defaults are those of Transporter Appendix A, but for the batch size."""

    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 32
    """Items a step."""
    learning_rate: float = 1e-3
    """Adam's, at the start."""
    decay: float = 0.95
    """Factor on the learning rate every `decay_every` steps."""
    decay_every: int = 100_000
    """Steps between two decays."""
    warm_up: int = 0
    """Steps over which the learning rate first rises from nothing."""
    anneal: bool = False
    """Besides, let the learning rate fall to zero along a half cosine over all steps."""
    precision: Precision = "auto"
    """bf16 runs convolutions and matrix products in bfloat16, parameters stay float32; auto takes it where it is faster."""
    seed: int = 0
    """Of the parameters and the batches."""
    checkpoint_every_s: float = 60.0
    """Most seconds of work that a kill may cost."""

    def __post_init__(self) -> None:
        checks = {
            "steps must be at least 1": self.steps >= 1,
            "batch_size must be at least 2": self.batch_size >= 2,
            "learning_rate must be positive": self.learning_rate > 0,
            "decay must be in (0, 1]": 0 < self.decay <= 1,
            "decay_every must be at least 1": self.decay_every >= 1,
            "warm_up must be at least 0": self.warm_up >= 0,
            "precision must be auto, bf16 or float32": self.precision in ("auto", "bf16", "float32"),
            "seed must be at least 0": self.seed >= 0,
        }
        require(self, checks)


@dataclass(frozen=True)
class Progress:
    """What the loop yields after a step."""

    step: int
    """Steps done."""
    metrics: Mapping[str, Tensor]
    """`loss` and whatever the trainable reports, as scalars that may still be on the device."""
    seconds: float
    """Time of this step."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"no device {name!r} on this machine; take auto, cpu or, where there is a GPU, cuda") from None
    return device


def prefers_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is the faster precision there: a GPU or a CPU with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _has_bf16_dot_products()


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Iterator[Progress]:
    """Take optimiser steps up to `config.steps`, yielding after each.

    A checkpoint is written every `config.checkpoint_every_s` seconds, at the last step, and when the generator is closed
    early. With `resume`, the run goes on from the checkpoint and gives, on one machine and
    number of threads, the very parameters that an uninterrupted run gives.

    Args:
        model: a `Trainable` module, on its device.
        batches: the batch of each step.
        config: how.
        checkpoint: file of the run's state; none is kept without it.
        resume: take up the run in `checkpoint`, if it is there.

    Raises:
        UsageError: the checkpoint is damaged, or of another model.
        FloatingPointError: the loss is no longer finite; parameters are as before that step.
    """
    device = next(model.parameters()).device
    bf16 = prefers_bf16(device) if config.precision == "auto" else config.precision == "bf16"
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    step = 0
    if resume and checkpoint is not None and Path(checkpoint).exists():
        step = load_checkpoint(checkpoint, model, optimizer)
    saved_at = time.monotonic()
    while step < config.steps:
        started = time.perf_counter()
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, metrics = model.loss(batches(step))  # type: ignore[operator]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step + 1}; a lower learning rate may help")
        optimizer.step()
        step += 1
        stopping = False
        try:
            yield Progress(step, {"loss": loss.detach(), **metrics}, time.perf_counter() - started)
        except GeneratorExit:
            stopping = True
            raise
        finally:
            due = stopping or step == config.steps or time.monotonic() - saved_at >= config.checkpoint_every_s
            if checkpoint is not None and due:
                save_checkpoint(checkpoint, model, optimizer, step)
                saved_at = time.monotonic()


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of the step after `step` steps."""
    rate = config.learning_rate * config.decay ** (step // config.decay_every)
    if step < config.warm_up:
        rate *= (step + 1) / config.warm_up
    return rate * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) if config.anneal else rate


def save_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write parameters, optimiser and step to one safetensors file, whole or not at all."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"optimizer.{i}.{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    save_tensors(path, tensors, {"checkpoint": 1, "step": step, "groups": json.loads(json.dumps(state["param_groups"]))})


def load_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put the state of a checkpoint into model and optimiser.

    Returns:
        The steps it had taken.

    Raises:
        UsageError: damaged, no checkpoint, or of a model of another shape.
    """
    tensors, header = load_tensors(path)
    if header.get("checkpoint") != 1:
        raise UsageError(f"{path} is no training checkpoint")
    parameters = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    if wanted != {name: value.shape for name, value in parameters.items()}:
        raise UsageError(
            f"{path} is a checkpoint of a model of another shape; resume with the configuration it was made with"
        )
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            slots.setdefault(int(index), {})[slot] = value
    model.load_state_dict(parameters)
    optimizer.load_state_dict({"state": slots, "param_groups": header["groups"]})
    return int(header["step"])


def describe(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _has_bf16_dot_products() -> bool:
    flags = torch.backends.cpu.get_cpu_capability()
    return flags.startswith("AVX512") and bool(torch.cpu._is_avx512_bf16_supported())
