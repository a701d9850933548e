"""What keypoints cost: environments with the wrapper against without, and a pretraining step against plain float32.

All ratios are of two things measured in turn in one process, so that a machine that slows down slows both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], int]
"""Does some work and says how many items it did."""


@dataclass(frozen=True)
class Speed:
    """Speed of the wrappers and of pretraining on this machine, as ratios, and the peak memory of each."""

    env: str = "ALE/Pong-v5"
    """An Atari id."""
    num_envs: int = 16
    """Copies in the vector env."""
    keypoints: int = 8
    """K."""
    rounds: int = 15
    """Times that the things compared are measured in turn; the median counts."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of play and parameters."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.errors import UsageError
        from kpagent.training import pick_device

        pick_device(self.device)
        if self.rounds < 1 or self.num_envs < 1 or self.keypoints < 1:
            raise UsageError(f"rounds, num_envs and keypoints must be at least 1; got {self}")
        measurement = Measurement("speed", "kpagent bench speed")
        # Not a multiprocessing.Pool, in whose daemons the wrappers hold torch to one thread.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            for group, unit in GROUPS.items():
                names = [name for name in CASES if name.startswith(group)]
                rates = pool.submit(_rates, self, names).result()
                bare = f"{group}/bare"
                for name in names:
                    measurement.add(f"{name}/rate", float(np.median(rates[name])), unit)
                    measurement.add(f"{name}/peak_memory_mb", pool.submit(_peak_memory, self, name).result(), "MB")
                    if name != bare:
                        ratio = np.asarray(rates[name]) / np.asarray(rates[bare])
                        figure = name.removesuffix("/keypoints").removesuffix("/fast") + _RATIO[group]
                        measurement.add(figure, float(np.median(ratio)), "", ci95=_spread(ratio))
                        say(f"{figure}: {np.median(ratio):.3f}")
        return measurement.result()


def _rates(config: Speed, names: list[str]) -> dict[str, list[float]]:
    """Items a second of each case, measured in turn `config.rounds` times after a warm-up."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        work = {name: stack.enter_context(CASES[name](config)) for name in names}
        for name in names:
            work[name]()
        for _ in range(config.rounds):
            for name in names:
                started = time.perf_counter()
                done = work[name]()
                rates[name].append(done / (time.perf_counter() - started))
    return rates


def _peak_memory(config: Speed, name: str) -> float:
    """Peak resident memory in MB of a fresh process that does nothing but this case."""
    from kpagent.spending import peak_memory_mb

    with CASES[name](config) as work:
        work()
    return peak_memory_mb()


def _spread(ratio: np.ndarray) -> tuple[float, float]:
    from kpagent.benchmarks.results import bootstrap_ci95

    return bootstrap_ci95(ratio)


@contextlib.contextmanager
def _vector(config: Speed, wrap: bool, features: bool = True) -> Iterator[Work]:
    from kpagent.envs import KeypointVectorObservation
    from kpagent.envs.making import make_vector_env

    # Frames at the size that the model sees: ALE's threads resize them as `kpagent.frames.resize` would.
    env = make_vector_env(config.env, config.num_envs, img_height=84, img_width=84)
    if wrap:
        env = KeypointVectorObservation(env, _model(config), features=features, device=config.device)
    rng = np.random.default_rng(config.seed)
    actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    env.reset(seed=config.seed)

    def work() -> int:
        for _ in range(60):
            env.step(rng.integers(actions, size=config.num_envs))
        return 60 * config.num_envs

    with contextlib.closing(env):
        yield work


@contextlib.contextmanager
def _single(config: Speed, wrap: bool, features: bool = True) -> Iterator[Work]:
    from kpagent.envs import KeypointObservation
    from kpagent.envs.making import make_env

    env = make_env(config.env)
    if wrap:
        env = KeypointObservation(env, _model(config), features=features, device=config.device)
    rng = np.random.default_rng(config.seed)
    actions = int(env.action_space.n)  # type: ignore[attr-defined]
    env.reset(seed=config.seed)

    def work() -> int:
        for _ in range(300):
            _, _, terminated, truncated, _ = env.step(int(rng.integers(actions)))
            if terminated or truncated:
                env.reset()
        return 300

    with contextlib.closing(env):
        yield work


@contextlib.contextmanager
def _pretraining(config: Speed, fast: bool) -> Iterator[Work]:
    """Three optimiser steps of the `fast` network: as `kpagent pretrain` takes them, or as PyTorch does by itself.

    By itself is float32, with channels before rows in memory.
    """
    import torch

    from kpagent.perception.pretraining import PretrainingConfig
    from kpagent.training import TrainingConfig, train

    model = _model(config)
    training = PretrainingConfig.fast().training
    frames = np.random.default_rng(config.seed).integers(0, 256, (2, training.batch_size, 84, 84, 3), dtype=np.uint8)
    if not fast:
        model.to(memory_format=torch.contiguous_format)
        for network in (model.features, model.keynet, model.refine):
            network.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    settings = TrainingConfig(steps=1_000_000, batch_size=training.batch_size, precision="auto" if fast else "float32")
    loop = train(model, lambda step: {"source": frames[0], "target": frames[1]}, settings)

    def work() -> int:
        for _ in range(3):
            next(loop)
        return 3

    yield work


def _model(config: Speed) -> Any:
    import torch

    from kpagent.perception.transporter import Transporter, TransporterConfig
    from kpagent.training import pick_device

    torch.manual_seed(config.seed)
    return Transporter(TransporterConfig.fast(config.keypoints)).to(pick_device(config.device)).eval()


GROUPS = {"wrapper/vector": "interactions/s", "wrapper/single": "interactions/s", "pretrain": "steps/s"}
_RATIO = {"wrapper/vector": "/ratio", "wrapper/single": "/ratio", "pretrain": "/step_ratio"}
CASES: dict[str, Callable[[Speed], contextlib.AbstractContextManager[Work]]] = {
    "wrapper/vector/bare": lambda config: _vector(config, wrap=False),
    "wrapper/vector/keypoints": lambda config: _vector(config, wrap=True),
    "wrapper/vector/without_features": lambda config: _vector(config, wrap=True, features=False),
    "wrapper/single/bare": lambda config: _single(config, wrap=False),
    "wrapper/single/keypoints": lambda config: _single(config, wrap=True),
    "wrapper/single/without_features": lambda config: _single(config, wrap=True, features=False),
    "pretrain/bare": lambda config: _pretraining(config, fast=False),
    "pretrain/fast": lambda config: _pretraining(config, fast=True),
}
