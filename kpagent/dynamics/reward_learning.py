"""Learning rewards from the states of a dynamics model that stays as it is; the run on disk (Struct-VRNN S2.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.reward_errors import RewardErrors, reward_errors
from kpagent.dynamics.reward_states import RewardStates, StatesConfig
from kpagent.dynamics.rewards import SMALLEST_SCALE, RewardConfig, RewardPredictor, dynamics_digest, state_size
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.run_folder import claim
from kpagent.training import TrainingConfig, describe, train

MODEL = "rewards.safetensors"
CHECKPOINT = "checkpoint-rewards.safetensors"
FALLS = 4
"""Of the learning rate, evenly spread, together to a tenth."""

_BATCH = 5
"""Of the numbers that are drawn: none is 0, since to NumPy seeds that differ in zeros at the end are the same."""
_SAMPLE = 4096
"""Windows at most whose states say how large states are."""


@dataclass(frozen=True)
class RewardLearningConfig:
    """How rewards are learned; `of` makes one."""

    training: TrainingConfig
    """Adam's; a batch has so many windows of each domain."""
    states: StatesConfig = field(default_factory=StatesConfig)
    """Which frames are observed and imagined."""
    units: int = 128
    """Of the dense layer and of each GRU."""
    held_out: float = 0.2
    """Share of the sequences that is not learned from."""
    evaluate_every: int = 500
    """Steps between two looks at the held-out sequences."""

    def __post_init__(self) -> None:
        checks = {
            "units must be from 1 to 4096": 1 <= self.units <= 4096,
            "held_out must be above 0 and below 1": 0 < self.held_out < 1,
            "evaluate_every must be at least 1": self.evaluate_every >= 1,
        }
        require(self, checks)

    @classmethod
    def of(cls, steps: int = 3_000, seed: int = 0, **changes: Any) -> RewardLearningConfig:
        """S2.2: Adam at 1e-3, falling to 1e-4 in equal parts of the training.

        Args:
            steps: of the optimiser.
            seed: of parameters and batches.
            changes: of the other fields.
        """
        training = TrainingConfig(
            steps=steps,
            batch_size=16,
            learning_rate=1e-3,
            decay=0.1 ** (1 / FALLS),
            decay_every=max(1, steps // (FALLS + 1)),
            precision="float32",
            seed=seed,
        )
        return cls(training, **changes)


@dataclass(frozen=True)
class RewardReport:
    """What a run of `learn_rewards` yields as it goes on."""

    stage: Literal["encoding", "held out", "learning"]
    """What is being done: states of the windows to learn from, of those held out, or steps."""
    step: int
    """Windows or steps done."""
    steps: int
    """Of how many."""
    errors: Mapping[str, RewardErrors] | None = None
    """On held-out windows, by domain; at every `evaluate_every`-th step and the last."""


def learn_rewards(
    model: StructVRNN,
    sequences: Sequences,
    config: RewardLearningConfig,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[RewardReport]:
    """Train a `RewardPredictor`, keeping a run on disk that can be killed and taken up again.

    In `out`: `config.json`, a checkpoint, `rewards.safetensors` for `RewardPredictor.load`, `logs/` for TensorBoard. States
    are computed anew when a run is taken up; with `resume` it gives, on one machine and number of threads, the parameters of
    one that ran through.

    Args:
        model: whose states are read; it stays as it is.
        sequences: with rewards; a share of them is held out.
        config: how.
        out: folder of the run.
        provenance: where model and sequences came from; it goes into the header.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: what `RewardStates` refuses; `out` holds a run and `resume` is not set, or one of other
            settings.
    """
    training, others = sequences.split(config.held_out)
    # What the two sides need is refused before anything is encoded.
    seen, unseen = RewardStates(training, model, config.states), RewardStates(others, model, config.states)
    shape = RewardConfig(seen.domains, state_size(model), dynamics_digest(model), config.units)
    data = {"name": sequences.header["name"], "sequences": len(sequences), "digest": sequences.digest}
    about = {**(provenance or {}), "data": data, "dynamics": {"digest": shape.dynamics, "trained": model.provenance}}
    settings = {"learning": describe(config), "provenance": about}
    claim(out, settings, begun=holds_rewards(out), resume=resume)
    return _run(shape, seen, unseen, config, out, about, resume)


def holds_rewards(out: Path) -> bool:
    """Whether a folder holds a run of `learn_rewards`, begun or finished."""
    return any((out / name).exists() for name in (CHECKPOINT, MODEL))


def states_config(predictor: RewardPredictor) -> tuple[StatesConfig, float]:
    """Of what frames a predictor learned the states, and what share of its sequences was held out.

    Raises:
        UsageError: its provenance does not say so, or says what cannot be.
    """
    try:
        learning = predictor.provenance["learning"]
        config, share = StatesConfig(**learning["states"]), float(learning["held_out"])
        if not isinstance(predictor.provenance["data"]["digest"], str):
            raise TypeError("the digest of the data is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the provenance of these rewards does not say how they were learned: {error}") from error
    return config, share


class StateBatches:
    """Windows of each domain, the same whenever a step's are asked for; for `RewardPredictor.loss`.

    Args:
        states: to draw from.
        training: batch size and seed.
    """

    def __init__(self, states: RewardStates, training: TrainingConfig) -> None:
        self.states, self.training = states, training
        self._of = [states.of(number) for number in range(len(states.domains))]

    def __call__(self, step: int) -> dict[str, Any]:
        """As of `RewardPredictor.loss`."""
        states = self.states
        generator = np.random.default_rng((self.training.seed, step, _BATCH))
        rows = [generator.choice(some, self.training.batch_size) for some in self._of]
        drawn = generator.integers(states.config.futures, size=(len(rows), self.training.batch_size))
        return {
            "observed": np.stack([states.observed[some] for some in rows]),
            "imagined": np.stack([states.imagined[some, future] for some, future in zip(rows, drawn, strict=True)]),
            "rewards": np.stack([states.rewards[some] for some in rows]),
            "before": states.foretold.start,
        }


def new_predictor(shape: RewardConfig, states: RewardStates, seed: int) -> RewardPredictor:
    """A predictor with random weights that knows how large states and rewards are.

    Args:
        shape: its configuration.
        states: those that will be learned from.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = RewardPredictor(shape)
    some = np.random.default_rng(seed).permutation(len(states))[:_SAMPLE]
    sample = states.observed[np.sort(some)].reshape(-1, shape.inputs).astype(np.float32)
    predictor.state_mean.copy_(torch.from_numpy(sample.mean(axis=0)))
    predictor.state_scale.copy_(torch.from_numpy(sample.std(axis=0)).clamp_min(SMALLEST_SCALE))
    for number in range(len(states.domains)):
        rewards = states.rewards[states.of(number)].astype(np.float64)
        predictor.reward_mean[number] = float(rewards.mean())
        # Rewards that never change are their mean.
        predictor.reward_scale[number] = float(rewards.std()) or 1.0
    return predictor


def _run(
    shape: RewardConfig,
    seen: RewardStates,
    unseen: RewardStates,
    config: RewardLearningConfig,
    out: Path,
    about: Mapping[str, Any],
    resume: bool,
) -> Iterator[RewardReport]:
    # Torch's writer of TensorBoard files takes a second to import.
    from torch.utils.tensorboard import SummaryWriter

    if (out / MODEL).exists():
        return
    for done in seen.encode():
        yield RewardReport("encoding", done, len(seen))
    for done in unseen.encode():
        yield RewardReport("held out", done, len(unseen))
    training, device = config.training, seen.model.device
    predictor = new_predictor(shape, seen, training.seed).to(device)
    errors = None
    losses: list[Tensor] = []
    with SummaryWriter(out / "logs") as log:
        loop = train(predictor, StateBatches(seen, training), training, checkpoint=out / CHECKPOINT, resume=resume)
        with contextlib.closing(loop):  # type: ignore[type-var]
            for progress in loop:
                step, errors = progress.step, None
                losses.append(progress.metrics["loss"])
                if step % 20 == 0 or step == training.steps:
                    log.add_scalar("rewards/loss", float(torch.stack(losses).mean()), step)
                    losses.clear()
                if step % config.evaluate_every == 0 or step == training.steps:
                    errors = reward_errors(predictor, unseen)
                    for name, each in errors.items():
                        log.add_scalar(f"rewards_observed/{name}", each.observed_share, step)
                        log.add_scalar(f"rewards_imagined/{name}", each.imagined_share, step)
                yield RewardReport("learning", step, training.steps, errors)
    errors = errors or reward_errors(predictor, unseen)
    predictor.provenance = dict(about) | {
        "steps": training.steps,
        "seed": training.seed,
        "learning": describe(config),
        "held_out": {name: each.plain() for name, each in errors.items()},
        "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
    }
    predictor.save(out / MODEL)
