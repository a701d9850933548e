"""`kpagent rewards eval`: how well rewards are predicted on sequences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError


@dataclass(frozen=True)
class RewardsEval:
    """Predict the rewards of sequences, seen and imagined, and compare with predicting their mean.

    Of the file that the rewards were learned from, what was held out then is taken.
    """

    weights: Path
    """File of kpagent rewards train: OUT/rewards.safetensors."""
    dynamics: Path
    """File of the dynamics model that they were learned with."""
    data: Path
    """File of sequences with rewards (.h5)."""
    out: Path | None = None
    """Picture (.png) to draw, of the error over frames for each domain; none, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Predict, and print a table."""
        from kpagent.benchmarks.rewards_figures import draw_errors
        from kpagent.collect.sequences import Sequences
        from kpagent.drawing import require_writable
        from kpagent.dynamics.reward_errors import reward_errors
        from kpagent.dynamics.reward_learning import states_config
        from kpagent.dynamics.reward_states import RewardStates
        from kpagent.dynamics.rewards import RewardPredictor
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.training import pick_device

        picture = None if self.out is None else require_writable(self.out, ".png")
        device = pick_device(self.device)
        predictor, model = RewardPredictor.load(self.weights, device), StructVRNN.load(self.dynamics, device)
        predictor.require_dynamics(model)
        config, held_out = states_config(predictor)
        sequences = Sequences(self.data)
        if sequences.digest == predictor.provenance["data"]["digest"]:
            _, sequences = sequences.split(held_out)
        states = RewardStates(sequences, model, config)
        if states.domains != predictor.config.domains:
            found, known = ", ".join(states.domains), ", ".join(predictor.config.domains)
            raise UsageError(f"{self.data} holds {found}; {self.weights} has rewards of {known}")
        with progress_bar() as bar:
            task = bar.add_task("encoding frames", total=len(states))
            for done in states.encode():
                bar.update(task, completed=done)
        errors = reward_errors(predictor, states)
        table = Table("domain", "windows", "observed", f"imagined {config.imagined}")
        for number, (name, each) in enumerate(errors.items()):
            windows = str(len(states.of(number)))
            table.add_row(name, windows, f"{each.observed_share:.3f}", f"{each.imagined_share:.3f}")
        console.print(table)
        console.print(f"squared errors by those of predicting the mean reward, on {len(states)} windows of {self.data}")
        if picture is not None:
            curves = {"rewards": {name: [each.curves()] for name, each in errors.items()}}
            draw_errors(picture, curves, first_imagined=states.foretold.start)
            console.print(f"wrote {picture}")
        return 0
