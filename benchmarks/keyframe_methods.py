"""What the keyframes benchmark compares: KeyIn in several forms on two datasets, and what the paper has beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from kpagent.collect.sequence_making import SequenceSource
    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.subgoals.configuration import KeyInConfig
    from kpagent.subgoals.learning import LearningConfig

Dataset = Literal["brownian", "pushing"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
Method = Literal[
    "keyin_keypoints",
    "keyin_positions",
    "keyin",
    "keyin_joint",
    "keyin_paper_loss",
    "static",
    "jumpy",
    "surprise",
    "tap",
    "random",
    "constant",
]
METHODS: tuple[Method, ...] = get_args(Method)
GIVERS = {"static": "jumpy"}
"""Whose interpolator a method takes over that learns the same one."""
PLACED = ("random", "constant")
"""Methods that learn nothing."""
UPPER_BOUND = "keyin_positions"
"""It learns from true positions, which no other method sees."""
SEARCHED = "_searched"
"""Behind the name of a method: its keyframes found by the exact search."""
PAPER = {
    "brownian": {"random": 0.15, "constant": 0.17, "static": 0.21, "surprise": 0.73, "keyin": 0.84},
    "pushing": {"random": 0.18, "constant": 0.23, "static": 0.18, "surprise": 0.10, "keyin": 0.30},
}
"""F1 by exact frame (Table 1); all of the paper's methods see frames."""
KEYPOINTS = {"brownian": 1, "pushing": 6}
"""K of the code that is learned: one for the ball; for puck, hand and both ends of the wall two more than there are."""
MIX = {"brownian": 0.0, "pushing": 1.0}
"""Share of windows of frames of different sequences. In pushing the wall, which stands still, needs keypoints, too; where
the puck is painted from a frame in which it lies nearby, keypoints of puck and hand slide between the two."""
CODE_STEPS = {"brownian": 1_200, "pushing": 2_000}
"""Optimiser steps of the code, after its keypoints were put on what moves."""

_ENDS = {"brownian": 0, "pushing": 1}
"""Keyframes that ours may have besides those of the paper's: after the sixth push, a sequence goes on for a while."""
_OF_PAPER = ("prior", "attention", "guide_share", "keyframe_cost", "segment_kl_scale", "keyframe_noise", "choosing")
_TIMES = ("given", "frames", "keyframes", "longest", "longest_segment")


def kind_of(method: str) -> str:
    """What model a method trains: keyin, surprise or tap; of `PLACED`, its own name."""
    return method if method in ("surprise", "tap", *PLACED) else "keyin"


def learns_from(method: str) -> str:
    """What a method sees: keypoints, positions or frames."""
    return {"keyin": "frames", UPPER_BOUND: "positions"}.get(method, "keypoints")


def sequence_source(dataset: str, count: int, seed: int) -> SequenceSource:
    """What makes the sequences of a dataset, in the paper's size.

    Raises:
        UsageError: a count below 1, a seed below 0, or MuJoCo is not installed and pushing needs it.
    """
    from kpagent.envs.synthetic import SYNTHETIC

    return SYNTHETIC[dataset].make(count, seed, _paper_config(dataset).codec.image_size)


def model_config(dataset: str, method: str) -> KeyInConfig:
    """The model of a method; of a baseline without one, the times that it keeps to."""
    from kpagent.subgoals.baselines import STATIC_BROWNIAN, STATIC_PUSHING, form_config
    from kpagent.subgoals.configuration import KeyInConfig

    paper = _paper_config(dataset)
    seen = learns_from(method)
    if seen == "frames":
        return paper
    points = len(sequence_source(dataset, 1, 0).provenance.truth_names) if seen == "positions" else KEYPOINTS[dataset]
    base = KeyInConfig.keypoints(2 * points, **{name: getattr(paper, name) for name in _TIMES})
    if method == "keyin_paper_loss":
        plain = {name: getattr(paper, name) for name in _OF_PAPER}
        return replace(base, **plain)
    if method in ("static", "jumpy"):
        static = STATIC_BROWNIAN if dataset == "brownian" else STATIC_PUSHING
        # There is nothing to guide to or to choose.
        return replace(form_config(method, base, static=static), guide_share=0.0, choosing=0.0)
    if kind_of(method) == "keyin":
        return replace(base, keyframes=base.keyframes + _ENDS[dataset])
    return base


def code_config(dataset: str) -> StructVRNNConfig:
    """The keypoint code that is learned of a dataset; maps of 16×16 cells in both."""
    from kpagent.dynamics.configuration import StructVRNNConfig

    config = StructVRNNConfig.fast(KEYPOINTS[dataset])
    return config if dataset == "pushing" else replace(config, code=replace(config.code, image_size=32, patch=1))


def learning_config(method: str, seed: int, interpolator_steps: int | None, steps: int | None) -> LearningConfig:
    """How a method is trained; one that learns everything at once takes as many steps as others in both stages.

    Args:
        method: its name.
        seed: of the batches.
        interpolator_steps: of the first stage; those of the `fast` preset, if not given.
        steps: of the second, likewise.

    Raises:
        UsageError: steps below 1.
    """
    from kpagent.subgoals.learning import LearningConfig

    base = LearningConfig.fast()
    at_once = method == "keyin_joint" or kind_of(method) != "keyin"
    first = replace(base.interpolator, seed=seed, **_steps(interpolator_steps))
    second = replace(base.keyframes, seed=seed, **_steps(steps))
    if at_once:
        second = replace(second, steps=first.steps + second.steps)
    return replace(base, joint=at_once, interpolator=first, keyframes=second)


def _paper_config(dataset: str) -> KeyInConfig:
    from kpagent.subgoals.configuration import KeyInConfig

    return KeyInConfig.brownian() if dataset == "brownian" else KeyInConfig.pushing()


def _steps(steps: int | None) -> dict[str, Any]:
    return {} if steps is None else {"steps": steps}
