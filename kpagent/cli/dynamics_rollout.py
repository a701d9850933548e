"""`kpagent dynamics rollout`: see imagined futures beside what really came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kpagent.cli.terminal import console
from kpagent.errors import UsageError


@dataclass(frozen=True)
class DynamicsRollout:
    """Draw a sequence, and under or beside it futures that a model imagines after its first frames.

    Observed frames have a green border, what follows a red one.
    """

    weights: Path
    """File of a model: OUT/model.safetensors or OUT/best.safetensors of kpagent dynamics train."""
    data: Path
    """File of sequences (.h5)."""
    out: Path = Path("rollout.mp4")
    """Film (.mp4), rows beside each other, or sheet (.png), time from left to right, to write."""
    index: int = 0
    """Number of the sequence in DATA."""
    start: int = 0
    """Number of its first frame that is shown."""
    samples: int = 5
    """Futures."""
    steps: int = 8
    """Frames to imagine."""
    fps: float = 5
    """Frames a second of the film."""
    seed: int = 0
    """Of the futures."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Imagine, draw, and say what was written."""
        from kpagent.collect.sequences import Sequences
        from kpagent.drawing import require_writable, write_png, write_video
        from kpagent.dynamics.rollouts import film, roll_out, sheet
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.training import pick_device

        if self.out.suffix.lower() not in (".mp4", ".png"):
            raise UsageError(f"cannot write {self.out}: its name must end in .mp4 or .png")
        if self.index < 0 or self.start < 0 or self.seed < 0:
            raise UsageError(f"index, start and seed must be at least 0; got {self.index}, {self.start} and {self.seed}")
        if not self.fps > 0:
            raise UsageError(f"--fps must be above 0, not {self.fps}")
        model = StructVRNN.load(self.weights, pick_device(self.device))
        # A few frames are wanted: what would hold the whole file in memory is not worth it.
        sequences = Sequences(self.data, memory=0)
        length = model.config.dynamics.observed + self.steps
        shown = sequences.stretch(self.index, self.start, self.start + max(length, 1))
        require_writable(self.out, self.out.suffix.lower())
        rollout = roll_out(
            model,
            shown["frames"],
            steps=self.steps,
            samples=self.samples,
            actions=shown.get("actions"),
            seed=self.seed,
        )
        if self.out.suffix.lower() == ".png":
            write_png(self.out, sheet(rollout))
        else:
            write_video(self.out, film(rollout), self.fps)
        console.print(
            f"wrote {self.out}: {rollout.observed} observed frames, {self.samples} futures of {self.steps} frames,"
            f" what really came {'on top' if self.out.suffix.lower() == '.png' else 'on the left'}"
        )
        return 0
