"""`kpagent keyframes train`: learn which frames of sequences explain the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kpagent.cli.following import follow
from kpagent.cli.sequence_data import SequenceData
from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.sequences import Sequences
    from kpagent.subgoals.code_sequences import CodeSequences
    from kpagent.subgoals.configuration import KeyInConfig
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.learning import LearningConfig, Report
    from kpagent.subgoals.perceived import Perception

SIZES = {32: (16, 32, 64), 64: (16, 32, 64, 128)}
"""Frames that a model can learn from, with the channels of its layers (section 4)."""

_TIMES = ("given", "frames", "keyframes", "longest", "shortest_segment", "longest_segment")
_DOING = {"interpolator": "learning to interpolate", "keyframes": "learning keyframes", "joint": "learning all at once"}
_COUNTED = 500


@dataclass(frozen=True)
class KeyframesTrain:
    """Learn which frames of sequences explain the rest, without labels, and when they come."""

    data: str
    """brownian, pushing or basketball, which are made; a file of sequences (.h5); a folder of videos; or a Gymnasium id,
    which is played at random."""
    out: Path
    """Folder of the run: models, checkpoints, TensorBoard logs, and sequences.h5 where DATA is no such file."""
    perception: str | None = None
    """Learn from the keypoints of these weights, which is fast: a name of the zoo, or a file of `kpagent pretrain` or of
    `kpagent dynamics train`. Without, the model learns from frames."""
    preset: Literal["fast", "paper"] = "fast"
    """How long and with which rates to learn; paper is for a GPU and days."""
    steps: int | None = None
    """Optimiser steps of the second stage, or of all at once; the preset's, if not given."""
    interpolator_steps: int | None = None
    """Optimiser steps of the first stage; the preset's, if not given."""
    given: int | None = None
    """Frames at the start of a sequence that are given; as in the paper for DATA's kind, and 5 for what it does not know."""
    frames: int | None = None
    """Frames after them, to be explained; 30, if not given."""
    keyframes: int | None = None
    """As many keyframes as there can be in them; 6, and with keypoints of pushing 7, if not given."""
    longest: int | None = None
    """Frames from one keyframe to the next, at most; 6 for pushing, else 10, if not given."""
    fixed_offsets: tuple[int, ...] = ()
    """Offsets of all keyframes, which are then not learned: the static and the jumpy baseline."""
    joint: bool = False
    """Learn everything at once: the ablation that shows what two stages are for."""
    sequences: int | None = None
    """Sequences to make (brownian 10000, pushing and basketball 5000), or stretches of 1,000 actions to play (100)."""
    evaluate_every: int | None = None
    """Steps between two looks at held-out sequences; the preset's, if not given."""
    seed: int = 0
    """Of the sequences, the parameters and the batches."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Make (or open) sequences, train, and say what was written and what was found."""
        import torch

        from kpagent.subgoals.keyin import KeyIn
        from kpagent.subgoals.learning import BEST, MODEL, holds_run, learn
        from kpagent.subgoals.perceived import load_perception
        from kpagent.training import pick_device

        learning, device = self._learning(), pick_device(self.device)
        perception = None if self.perception is None else load_perception(self.perception, device)
        if holds_run(self.out) and not self.resume:
            raise UsageError(f"{self.out} holds a run already; add --resume to take it up, or choose another --out")
        config = self._config(perception)
        size = config.codec.image_size if perception is None else perception.image_size
        data = SequenceData(self.data, self.sequences, self.seed)
        sequences = data.open(self.out, config.length, size)
        _require_length(sequences, config.length)
        if perception is None:
            config = _fit(config, sequences, plain=_kind(self.data) is None)
        learned = sequences if perception is None else _encode(sequences, perception)
        torch.manual_seed(self.seed)
        model = KeyIn(config).attach(perception).to(device)
        about = {"trained_on": self.data, "perception": self.perception}
        follow(
            lambda: learn(model, learned, learning, self.out, provenance=about, resume=self.resume),
            self.out,
            _DOING,
            _line,
        )
        console.print(
            f"wrote {self.out / MODEL}, {self.out / BEST}"
            f" (kpagent keyframes show --weights ... --data {sequences.path} shows them) and logs"
            f"{_agreement(model, sequences, learning.held_out)}"
        )
        return 0

    def _learning(self) -> LearningConfig:
        from kpagent.subgoals.learning import LearningConfig

        config: LearningConfig = getattr(LearningConfig, self.preset)()
        if self.joint and self.interpolator_steps is not None:
            raise UsageError("--interpolator-steps is for two stages: with --joint all is learned at once, in --steps")
        first, second = replace(config.interpolator, seed=self.seed), replace(config.keyframes, seed=self.seed)
        if self.interpolator_steps is not None:
            first = replace(first, steps=self.interpolator_steps)
        if self.steps is not None:
            second = replace(second, steps=self.steps)
        every = config.evaluate_every if self.evaluate_every is None else self.evaluate_every
        return replace(config, joint=self.joint, interpolator=first, keyframes=second, evaluate_every=every)

    def _config(self, perception: Perception | None) -> KeyInConfig:
        """The model; sizes of frames and their brightness are those of the paper's data, where it is none of these."""
        from kpagent.subgoals.configuration import CodecConfig, KeyInConfig

        kind = _kind(self.data)
        paper = KeyInConfig.pushing() if kind == "pushing" else KeyInConfig.brownian()
        times = {name: getattr(paper, name) for name in _TIMES}
        asked = {name: getattr(self, name) for name in ("given", "frames", "keyframes", "longest")}
        times |= {name: value for name, value in asked.items() if value is not None}
        # An interpolator knows no segment that a keyframe cannot end.
        times["longest_segment"] = min(times["longest_segment"], times["longest"], times["frames"])
        times["shortest_segment"] = min(times["shortest_segment"], times["longest_segment"])
        if perception is not None:
            if kind == "pushing" and self.keyframes is None and not self.fixed_offsets:
                # After the sixth push, a sequence goes on for a while.
                times["keyframes"] += 1
            return KeyInConfig.keypoints(2 * perception.num_keypoints, **times, fixed_offsets=self.fixed_offsets)
        codec = paper.codec if kind else CodecConfig(image_size=64, filters=SIZES[64])
        return replace(paper, codec=codec, **times, fixed_offsets=self.fixed_offsets)


def _kind(data: str) -> str | None:
    """Which of the paper's data it is; a file says so in its header."""
    from kpagent.collect.sequences import Sequences

    name = Sequences(data, memory=0).header.get("name") if Path(data).suffix == ".h5" else data
    return name if name in ("brownian", "pushing") else None


def _require_length(sequences: Sequences, length: int) -> None:
    """Before frames are encoded, which takes long."""
    longest = int(sequences.lengths.max())
    if longest < length:
        raise UsageError(f"the longest sequence of {sequences.path} has {longest} frames, and {length} are needed")


def _fit(config: KeyInConfig, sequences: Sequences, *, plain: bool) -> KeyInConfig:
    """The model of frames as large, and where they are not the paper's as bright, as those that there are."""
    size = sequences.frame_size
    if size not in SIZES:
        known = " or ".join(f"{side}x{side}" for side in SIZES)
        raise UsageError(
            f"a model of frames learns from {known}, and those of {sequences.path} are {size}x{size};"
            " learn from keypoints, with --perception, or make the file anew"
        )
    codec = replace(config.codec, image_size=size, filters=SIZES[size])
    if plain:
        mean = float(sequences.ordered(config.length, 64)["frames"].mean()) / 255
        codec = replace(codec, brightness=min(max(round(mean, 2), 0.02), 0.98))
    return replace(config, codec=codec)


def _encode(sequences: Sequences, perception: Perception) -> CodeSequences:
    from kpagent.subgoals.code_sequences import keypoint_codes

    with progress_bar() as bar:
        task = bar.add_task("encoding frames", total=sequences.num_frames)
        return keypoint_codes(sequences, perception, lambda done: bar.update(task, completed=done))


def _agreement(model: KeyIn, sequences: Sequences, share: float) -> str:
    """How well keyframes of held-out sequences are found, where the true ones are known."""
    from kpagent.evaluation.keyframes import match_sequences

    if not sequences.has_keyframes:
        return ""
    config = model.config
    held_out = sequences.split(share)[1].ordered(config.length, _COUNTED)
    found = model.discover(held_out["frames"]).inside()
    true = [np.flatnonzero(row) for row in held_out["keyframes"]]
    # What is given, and the last frame, which ends every way to cut a sequence, do not count.
    exact, near = (match_sequences(found, true, off, start=config.given, stop=config.length - 1).f1 for off in (0, 1))
    return f"; F1 over {len(true)} held-out sequences {exact:.2f}, {near:.2f} within one frame"


def _line(report: Report) -> str | None:
    seen = report.held_out
    if seen is None:
        return None
    line = f"{_DOING[report.stage]}, step {report.step}: held-out loss {seen['loss']:.4f}"
    if "keyframes" in seen:
        line += f", {seen['keyframes']:.1f} keyframes, unsure of an offset by {seen['unsure']:.2f} nats"
    return line
