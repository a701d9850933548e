"""The runs of the rewards benchmark, as `runs.run_all` calls them: learn dynamics without rewards, then read rewards off."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.benchmarks.learning_runs import counting, spent

if TYPE_CHECKING:
    from kpagent.collect.sequences import Sequences
    from kpagent.dynamics.struct_vrnn import StructVRNN

REWARDS = "rewards"
"""In the folder of a run: that of its rewards."""


def learn_task_rewards(
    method: str,
    seed: int,
    folder: str,
    *,
    training: str,
    test: str,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    reward_steps: int,
    states: Mapping[str, Any],
    device: str = "auto",
) -> dict[str, Any]:
    """Learn the dynamics of all tasks from one recording, and rewards from its states of another, of which a share is kept.

    A run that was killed is taken up from its last checkpoint.

    Args:
        method: its name, for the header of the weights.
        seed: of the parameters of both; that of the batches of the dynamics is in `learning`.
        folder: of the run.
        training: file of sequences to learn dynamics from.
        test: file of others, with rewards.
        model: `StructVRNNConfig` as plain values.
        learning: `LearningConfig` as plain values.
        reward_steps: steps of the rewards.
        states: `StatesConfig` as plain values.
        device: auto, cpu or cuda.

    Returns:
        `errors`: for each task, `RewardErrors.plain()`; `spent`: `wall_s`, `cpu_s` and `peak_memory_mb`.
    """
    from kpagent.collect.sequences import Sequences
    from kpagent.dynamics.reward_learning import MODEL, RewardLearningConfig, learn_rewards
    from kpagent.dynamics.reward_states import StatesConfig
    from kpagent.dynamics.rewards import RewardPredictor
    from kpagent.fields import require_types

    place = Path(folder)
    config = StatesConfig(**states)
    require_types(config)
    with counting(place) as keep:
        learner = _learn_dynamics(method, seed, place, Sequences(training), model, learning, device, keep)
        rewards = RewardLearningConfig.of(reward_steps, seed, states=config)
        run = learn_rewards(learner, Sequences(test), rewards, place / REWARDS, provenance={"method": method}, resume=True)
        with contextlib.closing(run):  # type: ignore[type-var]
            for report in run:
                if report.errors is not None:
                    keep()
                    shares = {name: round(each.imagined_share, 3) for name, each in report.errors.items()}
                    print(f"rewards, step {report.step} of {report.steps}: imagined {shares}", flush=True)
    found = RewardPredictor.load(place / REWARDS / MODEL).provenance["held_out"]
    return {"errors": found, "spent": spent(place)}


def _learn_dynamics(
    method: str,
    seed: int,
    folder: Path,
    sequences: Sequences,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    device: str,
    keep: Any,
) -> StructVRNN:
    """Begin the run in the folder, take it up, or find it finished."""
    import torch

    from kpagent.benchmarks.video_runs import load_model, make_learning, say
    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.dynamics.learning import learn
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.training import pick_device

    torch.manual_seed(seed)
    learner = StructVRNN(StructVRNNConfig.from_dict(dict(model))).to(pick_device(device))
    run = learn(learner, sequences, make_learning(learning), folder, provenance={"method": method}, resume=True)
    with contextlib.closing(run):  # type: ignore[type-var]
        for report in run:
            say(report)
            if report.evaluation is not None:
                keep()
    # As it was saved: a run that was finished before has not loaded its parameters.
    return load_model(folder, device)
