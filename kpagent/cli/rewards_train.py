"""`kpagent rewards train`: learn rewards from the states of a dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpagent.cli.following import follow
from kpagent.cli.terminal import console

if TYPE_CHECKING:
    from kpagent.dynamics.reward_learning import RewardReport

_DOING = {"encoding": "encoding frames", "held out": "encoding held-out frames", "learning": "learning rewards"}


@dataclass(frozen=True)
class RewardsTrain:
    """Learn to read rewards off the states of a dynamics model, which was trained without any and stays as it is."""

    dynamics: Path
    """File of a model: OUT/model.safetensors of kpagent dynamics train."""
    data: Path
    """File of sequences with rewards (.h5), best one that the model has not learned from."""
    out: Path
    """Folder of the run: rewards.safetensors, checkpoint, TensorBoard logs."""
    steps: int = 3_000
    """Optimiser steps."""
    length: int = 20
    """Frames of a window."""
    observed: int = 8
    """Frames that are observed before others are imagined."""
    imagined: int = 10
    """Frames that are imagined."""
    futures: int = 4
    """Samples of what is imagined."""
    evaluate_every: int = 500
    """Steps between two looks at held-out sequences."""
    seed: int = 0
    """Of the parameters and the batches."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Train, and say what was written."""
        from kpagent.collect.sequences import Sequences
        from kpagent.dynamics.reward_learning import MODEL, RewardLearningConfig, learn_rewards
        from kpagent.dynamics.reward_states import StatesConfig
        from kpagent.dynamics.rewards import RewardPredictor
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.training import pick_device

        states = StatesConfig(self.length, self.observed, self.imagined, self.futures)
        config = RewardLearningConfig.of(self.steps, self.seed, states=states, evaluate_every=self.evaluate_every)
        model = StructVRNN.load(self.dynamics, pick_device(self.device))
        sequences = Sequences(self.data)
        follow(
            lambda: learn_rewards(model, sequences, config, self.out, resume=self.resume),
            self.out,
            _DOING,
            _line,
        )
        about = RewardPredictor.load(self.out / MODEL).config
        console.print(f"wrote {self.out / MODEL}, rewards of {', '.join(about.domains)}, and logs")
        return 0


def _line(report: RewardReport) -> str | None:
    if report.errors is None:
        return None
    shares = ", ".join(
        f"{name} {each.observed_share:.2f} ({each.imagined_share:.2f})" for name, each in report.errors.items()
    )
    return f"step {report.step}: error by that of the mean, observed (imagined): {shares}"
