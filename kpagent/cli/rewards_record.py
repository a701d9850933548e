"""`kpagent rewards record`: random play of control tasks as a file of sequences."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.sequence_making import SequencesProgress

BLOCK = 60
"""Sequences made between two points at which a recording can be taken up."""


@dataclass(frozen=True)
class RewardsRecord:
    """Record frames, actions and rewards under random actions, for `kpagent dynamics train` and `kpagent rewards train`."""

    out: Path
    """File of sequences to write (.h5)."""
    env: tuple[str, ...] = ()
    """Gymnasium ids with continuous actions; the paper's six tasks of DeepMind Control, if not given."""
    sequences: int = 1_000
    """Of each environment."""
    length: int = 20
    """Frames of each."""
    before: int = 100
    """Largest number of random actions before the first frame of a sequence."""
    repeat: int = 1
    """How often each action is taken."""
    size: int = 64
    """Height and width of the frames."""
    workers: int = 1
    """Processes that record."""
    seed: int = 0
    """Of resets and actions."""
    resume: bool = False
    """Take up a recording that was interrupted or killed; one that is finished is left as it is."""

    def run(self) -> int:
        """Record, and say what was written."""
        from kpagent.collect.sequence_making import write_sequences
        from kpagent.collect.sequences import Sequences
        from kpagent.drawing import require_writable
        from kpagent.envs.control_frames import PREFIX
        from kpagent.envs.control_sequences import TASKS, ControlSequences, RecordingConfig

        path = require_writable(self.out, ".h5")
        if path.exists() and not self.resume:
            raise UsageError(f"{path} is there already; remove it, or choose another --out")
        if self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        config = RecordingConfig(self.sequences, self.length, self.before, self.repeat, self.size, self.seed)
        env_ids = self.env or tuple(f"{PREFIX}{task}-v0" for task in TASKS)
        began = time.monotonic()
        with contextlib.closing(ControlSequences(env_ids, config)) as source, progress_bar() as bar:
            task = bar.add_task("recording sequences", total=source.count)

            def listen(progress: SequencesProgress) -> None:
                bar.update(task, completed=progress.done)
                if progress.joined:
                    joined = round(progress.joined * progress.count)
                    bar.update(task, description="joining sequences", completed=joined)

            try:
                write_sequences(path, source, block=BLOCK, resume=self.resume, workers=self.workers, listen=listen)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("what was recorded is kept; go on with --resume") from None
        sequences, seconds = Sequences(path, memory=0), time.monotonic() - began
        console.print(
            f"wrote {path}: {len(sequences)} sequences of {len(env_ids)} environments, {sequences.num_frames} frames,"
            f" actions of {sequences.action_dim} numbers, in {seconds:.0f} s"
        )
        return 0
