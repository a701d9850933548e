"""`kpagent keyframes show`: see a sequence's keyframes, and other ways to go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpagent.cli.sequence_data import SequenceData
from kpagent.cli.terminal import console
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.subgoals.keyin import KeyIn


@dataclass(frozen=True)
class KeyframesShow:
    """Draw a sequence with its keyframes, when they may be, what the model makes of them, and other ways to go on.

    Keyframes have a blue border; a red bar is above true ones, where they are known.
    """

    weights: Path
    """File of a model: OUT/model.safetensors or OUT/best.safetensors of kpagent keyframes train."""
    data: str
    """Sequences as of kpagent keyframes train: a file (.h5); brownian, pushing or basketball; a folder of videos; or a
    Gymnasium id."""
    out: Path = Path("keyframes")
    """Folder to write keyframes.png, samples.png and ways.png to."""
    index: int = 0
    """Number of the sequence in DATA."""
    start: int = 0
    """Number of its first frame that is shown."""
    samples: int = 4
    """Other ways to go on."""
    seed: int = 0
    """Of the samples, and of what is made or played."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Find, sample, draw, and say what was written."""
        from kpagent.drawing import require_writable, write_png
        from kpagent.subgoals.explanations import explain, require_sight, show_samples
        from kpagent.subgoals.keyin import KeyIn
        from kpagent.training import pick_device

        for name in ("index", "start", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} must be at least 0, not {getattr(self, name)}")
        if self.samples < 1:
            raise UsageError(f"--samples must be at least 1, not {self.samples}")
        model = KeyIn.load(self.weights, pick_device(self.device))
        require_sight(model)
        sequence = self._sequence(model)
        paths = [require_writable(self.out / f"{name}.png", ".png") for name in ("keyframes", "samples", "ways")]
        frames, true = sequence["frames"], None
        if "keyframes" in sequence:
            true = np.flatnonzero(sequence["keyframes"])
        pictures = [
            explain(model, frames, true),
            *show_samples(model, frames, self.samples, true=true, seed=self.seed),
        ]
        for path, picture in zip(paths, pictures, strict=True):
            write_png(path, picture)
        found = model.discover(frames[None]).inside()[0]
        line = f"wrote {', '.join(map(str, paths))}: keyframes {_numbers(found)}"
        console.print(line if true is None else f"{line}; true ones {_numbers(true)}")
        return 0

    def _sequence(self, model: KeyIn) -> dict[str, np.ndarray]:
        """The frames that are shown, as many as the model has learned on."""
        config, perception = model.config, model.perception
        size = config.codec.image_size if perception is None else perception.image_size
        sequence = SequenceData(self.data, seed=self.seed).one(self.index, self.start, config.length, size)
        have = len(sequence["frames"])
        if have < config.length:
            needed = f"{config.length} are needed ({config.given} given, {config.frames} after them)"
            raise UsageError(f"sequence {self.index} of {self.data} has {have} frames from frame {self.start}, and {needed}")
        found = sequence["frames"].shape[1]
        if perception is None and found != size:
            raise UsageError(f"the model sees frames of {size}x{size}, and those of {self.data} are {found}x{found}")
        return sequence


def _numbers(keyframes: np.ndarray) -> str:
    return ", ".join(map(str, keyframes)) or "none"
