"""`kpagent dynamics train`: learn keypoints and their futures from video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kpagent.cli.following import follow
from kpagent.cli.sequence_data import SequenceData
from kpagent.cli.terminal import console
from kpagent.dynamics.methods import Method
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.sequences import Sequences
    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.dynamics.learning import LearningConfig, Report

_DOING = {
    "start": "looking for what moves",
    "joint": "learning",
    "code": "learning the code",
    "encoding": "encoding frames",
    "dynamics": "learning the dynamics",
}


@dataclass(frozen=True)
class DynamicsTrain:
    """Learn keypoints and their futures from video, without labels or rewards."""

    data: str
    """basketball, brownian, pushing or pushes, which are made; a file of sequences (.h5); a folder of videos; or a Gymnasium
    id, which is played at random."""
    out: Path
    """Folder of the run: models, checkpoints, TensorBoard logs, and sequences.h5 where DATA is no such file."""
    preset: Literal["fast", "control", "basketball", "human36m", "dmcs"] = "fast"
    """fast, and control for several control tasks at once, learn on a CPU in two stages; the others are Table S1's, learned
    at once as the paper does, for a GPU."""
    method: Method = "struct_vrnn"
    """The full model, or what the paper compares it with."""
    keypoints: int | None = None
    """K; the preset's, if not given. Take more than there are moving things."""
    perception: str | None = None
    """Learn the futures of these weights' keypoints, which stay as they are: a name of the zoo, or a file of
    `kpagent pretrain` or of `kpagent dynamics train`, whose painter stays too."""
    code: Literal["keypoints", "vector"] | None = None
    """What a frame is coded by; keypoints, or the method's, if not given."""
    stochastic: bool = True
    """Without, one future is foretold."""
    samples: int | None = None
    """Samples at each step, of which the best is learned from; the preset's or the method's, if not given."""
    units: int | None = None
    """Units of the GRU; the preset's, if not given. With fewer, a planner imagines faster."""
    separation: float | None = None
    """Weight of the separation loss; the preset's or the method's, if not given."""
    sparsity: float | None = None
    """Weight of the sparsity loss; the preset's or the method's, if not given."""
    supervision: float | None = None
    """Weight of the squared distance from true positions; the method's, which is mostly 0, if not given."""
    actions: bool = False
    """Let the future depend on actions, which DATA must have."""
    mix: float = 0.0
    """Share of the code's windows whose frames come from different sequences, of one class where there are classes: what
    stands still in each but differs between them, such as an obstacle, gets keypoints, too."""
    sequences: int | None = None
    """Sequences to make (basketball and pushing 5000, brownian 10000), or stretches of 1,000 actions to play (100)."""
    steps: int | None = None
    """Optimiser steps of the dynamics, or of all at once; the preset's, if not given."""
    code_steps: int | None = None
    """Optimiser steps of the code, where it is learned first; the preset's, if not given."""
    evaluate_every: int | None = None
    """Steps between two looks at held-out sequences; the preset's, if not given."""
    seed: int = 0
    """Of the sequences, the parameters and the batches."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Make (or open) sequences, train, and say what was written."""
        import torch

        from kpagent.dynamics.learning import BEST, MODEL, holds_run, learn
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.subgoals.perceived import load_perception
        from kpagent.training import pick_device

        self._refuse_with_perception()
        learning, config = self._learning(), self._config()
        device = pick_device(self.device)
        perception = None if self.perception is None else load_perception(self.perception)
        if isinstance(perception, StructVRNN):
            if learning.joint:
                raise UsageError(
                    f"--preset {self.preset} learns all at once, and the code of {self.perception} is to stay;"
                    " take --preset fast"
                )
            config, learning = replace(config, code=perception.config.code), replace(learning, learn_code=False)
        elif perception is not None:
            config = config.on(perception.num_keypoints, perception.image_size)
        if holds_run(self.out) and not self.resume:
            raise UsageError(f"{self.out} holds a run already; add --resume to take it up, or choose another --out")
        sequences = self._sequences(config)
        if self.actions:
            if not sequences.action_dim:
                raise UsageError(f"{sequences.path} has no actions; leave out --actions")
            config = replace(config, dynamics=replace(config.dynamics, actions=sequences.action_dim))
        torch.manual_seed(self.seed)
        if isinstance(perception, StructVRNN):
            model = StructVRNN.with_code_of(perception, config.dynamics).to(device)
        else:
            model = StructVRNN(config, perception=perception).to(device)
        about = {"trained_on": self.data, "method": self.method, "preset": self.preset, "perception": self.perception}
        follow(
            lambda: learn(model, sequences, learning, self.out, provenance=about, resume=self.resume),
            self.out,
            _DOING,
            _line,
        )
        console.print(
            f"wrote {self.out / MODEL}, {self.out / BEST}"
            f" (kpagent dynamics rollout --weights ... --data {sequences.path} shows them) and logs"
        )
        return 0

    def _refuse_with_perception(self) -> None:
        if self.perception is None:
            return
        names = ("keypoints", "code", "separation", "sparsity", "supervision")
        given = [name for name in names if getattr(self, name) is not None] + ["mix"] * (self.mix > 0)
        if given:
            raise UsageError(f"--{given[0]} is for keypoints that are learned here; leave it out, or --perception")
        if self.method not in ("struct_vrnn", "no_bom", "struct_rnn"):
            raise UsageError(f"--method {self.method} is for keypoints that are learned here; leave it out, or --perception")

    def _learning(self) -> LearningConfig:
        from kpagent.dynamics.learning import LearningConfig

        config = LearningConfig.fast() if self.preset in ("fast", "control") else LearningConfig.paper()
        code, dynamics = replace(config.code, seed=self.seed), replace(config.dynamics, seed=self.seed)
        if self.code_steps is not None:
            if config.joint:
                raise UsageError(
                    f"--code-steps is for --preset fast and control: {self.preset} learns all at once, in --steps"
                )
            code = replace(code, steps=self.code_steps)
        if self.steps is not None and config.joint:
            code = replace(code, steps=self.steps)
        elif self.steps is not None:
            dynamics = replace(dynamics, steps=self.steps)
        if self.mix and config.joint:
            raise UsageError(f"--mix is for --preset fast and control: {self.preset} learns all at once")
        every = config.evaluate_every if self.evaluate_every is None else self.evaluate_every
        return replace(config, code=code, dynamics=dynamics, mix=self.mix, evaluate_every=every)

    def _config(self) -> StructVRNNConfig:
        """The model; of actions, only the sequences know how many numbers they have."""
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.dynamics.methods import method_config

        base = getattr(StructVRNNConfig, self.preset)()
        if self.keypoints is not None:
            base = replace(base, code=replace(base.code, num_keypoints=self.keypoints))
        config = method_config(self.method, base)
        weights = {"separation": self.separation, "sparsity": self.sparsity, "supervision": self.supervision}
        given: dict[str, Any] = {"kind": self.code, **weights}
        code = replace(config.code, **{name: value for name, value in given.items() if value is not None})
        dynamics = config.dynamics
        if not self.stochastic:
            dynamics = replace(dynamics, stochastic=False)
        sizes: dict[str, Any] = {"samples": self.samples, "rnn_units": self.units}
        dynamics = replace(dynamics, **{name: value for name, value in sizes.items() if value is not None})
        return StructVRNNConfig(code, dynamics)

    def _sequences(self, config: StructVRNNConfig) -> Sequences:
        """The sequences in DATA, as long and as large as the model needs them; refuses what they will lack."""
        from kpagent.dynamics.learning import require_data

        def check(points: int, has_actions: bool) -> None:
            require_data(config, self.data, points=points, actions=0)
            if self.actions and not has_actions:
                raise UsageError(f"{self.data} has no actions; leave out --actions")

        length = config.dynamics.observed + config.dynamics.predicted
        return SequenceData(self.data, self.sequences, self.seed).open(self.out, length, config.code.image_size, check)


def _line(report: Report) -> str | None:
    seen = report.evaluation
    if seen is None:
        return None
    line = f"{_DOING[report.stage]}, step {report.step}: held-out loss {seen.loss:.4f}"
    if report.stage != "dynamics":
        line += f", squared error {seen.copy_share:.3f} of copying the first frame"
    if seen.future is not None:
        errors, constant = seen.future.errors, seen.future.constant_errors
        line += f", code error {errors[-1]:.4f} at step {len(errors)} ahead (constant {constant[-1]:.4f})"
    return line
