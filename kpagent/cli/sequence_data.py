"""What --data of a command names: sequences that are read, made, taken from videos or played."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.sequence_making import SequenceSource, SequencesProgress
    from kpagent.collect.sequences import Sequences

STRETCHES = 100
"""Of 1,000 actions each, of an environment."""

Check = Callable[[int, bool], None]
"""Refuses data that do not do, by the number of points whose true positions are known, and whether there are actions."""


@dataclass(frozen=True)
class SequenceData:
    """Where sequences come from, as a user said it."""

    name: str
    """One of `kpagent.envs.synthetic`, a file that ends in .h5, a folder of videos, or a Gymnasium id."""
    count: int | None = None
    """Sequences to make, or stretches to play; a good number, if None."""
    seed: int = 0
    """Of what is made or played."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of sequences."""
        return Path(self.name).suffix == ".h5"

    def open(self, out: Path, length: int, size: int, check: Check | None = None) -> Sequences:
        """The sequences of the file, or those in OUT/sequences.h5, where they are made first, with a bar.

        Args:
            out: folder of the run.
            length: frames that a sequence must have at least.
            size: height and width of frames that are made.
            check: is asked before anything is made; not of a file.

        Raises:
            UsageError: before anything is made: there is no such thing, it has too short sequences, or a count where nothing
                is made.
            KeyboardInterrupt: what was made is kept.
        """
        from kpagent.collect.sequence_making import write_sequences
        from kpagent.collect.sequences import Sequences
        from kpagent.drawing import require_writable

        if self.is_file:
            self._refuse_count("are what the file holds")
            sequences = Sequences(self.name)
            console.print(f"read {len(sequences)} sequences, {sequences.num_frames} frames, from {self.name}")
            return sequences
        opened = contextlib.ExitStack()
        source = self._source(length, size, opened, check, every=True)
        path = require_writable(out / "sequences.h5", ".h5")
        before = path.exists()
        with opened, progress_bar() as bar:
            task = bar.add_task("making sequences", total=source.count)

            def listen(progress: SequencesProgress) -> None:
                bar.update(task, completed=progress.done)
                if progress.joined:
                    joined = round(progress.joined * progress.count)
                    bar.update(task, description="joining sequences", completed=joined)

            try:
                # Sequences are a function of their settings, which are compared: those of a killed making are good.
                write_sequences(path, source, block=64, resume=True, listen=listen)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"what was made in {out} is kept; go on with --resume") from None
        sequences = Sequences(path)
        done = "read" if before else "wrote"
        console.print(f"{done} {len(sequences)} sequences of {self.name}, {sequences.num_frames} frames: {path}")
        return sequences

    def one(self, index: int, start: int, length: int, size: int) -> dict[str, np.ndarray]:
        """Consecutive frames of one sequence, which is made if it has to be; nothing is written.

        Args:
            index: of the sequence, or of the video or stretch of play, of which it is the first.
            start: number of its first frame that is wanted.
            length: frames; fewer come where it ends before.
            size: height and width of frames that are made.

        Returns:
            As of `Sequences.stretch`.

        Raises:
            UsageError: no such sequence or frame, or as of `open`.
        """
        from kpagent.collect.sequences import Sequences

        if self.is_file:
            # A few frames are wanted: what would hold the whole file in memory is not worth it.
            return Sequences(self.name, memory=0).stretch(index, start, start + length)
        with contextlib.ExitStack() as opened:
            source = self._source(start + length, size, opened, every=False)
            if not 0 <= index < source.count:
                raise UsageError(f"{self.name} has sequences 0 to {source.count - 1}, not {index}")
            return _first(source, index, start, start + length, self.name)

    def _source(
        self, length: int, size: int, opened: contextlib.ExitStack, check: Check | None = None, *, every: bool
    ) -> SequenceSource:
        """What makes the sequences, as long and as large as they must be; of videos, `every` one or whichever is."""
        from kpagent.collect.env_sequences import Play, PlayConfig
        from kpagent.collect.videos import VideoFolder, VideosConfig
        from kpagent.envs.making import make_env
        from kpagent.envs.synthetic import SYNTHETIC

        check = check or (lambda points, has_actions: None)
        if self.name in SYNTHETIC:
            made = SYNTHETIC[self.name]
            if length > made.frames:
                raise UsageError(f"sequences of {self.name} have {made.frames} frames, and {length} are needed")
            source = made.make(made.sequences if self.count is None else self.count, self.seed, size)
            check(len(source.provenance.truth_names), made.has_actions)
            return source
        if Path(self.name).is_dir():
            self._refuse_count("are as many as there are videos in the folder")
            check(0, False)
            return VideoFolder(self.name, VideosConfig(size, shortest=length if every else 1))
        try:
            env = make_env(self.name, render_mode="rgb_array")
        except UsageError as error:
            raise UsageError(f"no .h5 file, no folder and no environment to take data from: {error}") from error
        opened.callback(env.close)
        check(0, True)
        units = STRETCHES if self.count is None else self.count
        return Play(env, PlayConfig(units, size=size, shortest=length, seed=self.seed), name=self.name)

    def _refuse_count(self, why: str) -> None:
        if self.count is not None:
            raise UsageError(f"--sequences is for what is made or played: here they {why}")


def _first(source: SequenceSource, unit: int, start: int, stop: int, name: str) -> dict[str, np.ndarray]:
    """Frames `start` to `stop` of the first sequence of a unit, which may come in pieces."""
    parts: dict[str, list[np.ndarray]] = {}
    have = 0
    for piece in source.make(unit, unit + 1):
        if have >= stop or (have and not piece.continues):
            break
        have += len(piece.frames)
        for field in ("frames", "actions", "rewards", "truth", "keyframes"):
            values = getattr(piece, field)
            if values is not None:
                parts.setdefault(field, []).append(values)
    if have <= start:
        raise UsageError(f"sequence {unit} of {name} has {have} frames, none from {start}")
    return {field: np.concatenate(values)[start:stop] for field, values in parts.items()}
