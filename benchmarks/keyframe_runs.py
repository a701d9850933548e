"""The runs of the keyframes benchmark, as `runs.run_all` calls them: learn keyframes, and find those of a test set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.benchmarks.keyframe_codes import AT_ONCE, Codes, batches
from kpagent.benchmarks.learning_runs import counting, spent, take_over

if TYPE_CHECKING:
    from kpagent.benchmarks.keyframe_evaluation import Follower
    from kpagent.subgoals.keyframe_model import KeyframeModel
    from kpagent.subgoals.learning import LearningConfig, Report

INTERPOLATOR = "checkpoint-interpolator.safetensors"
"""In the folder of a run: the state of its first stage."""
# All that the first stage does not see.
_NOT_OF_INTERPOLATOR = {
    "keyframes", "latent", "prior", "attention", "fixed_offsets", "kl_scale", "code_scale", "image_scale", "sequence_scale",
    "keyframe_cost", "guide_share", "guide_scale", "guided",
}  # fmt: skip
_OF_CHOOSING = {"keyframes", "sequence_scale", "keyframe_cost", "guided"}
"""But that it sees where it chooses its segments."""


def learn_keyframes(
    kind: str,
    seed: int,
    folder: str,
    *,
    training: str,
    test: str,
    truth: str,
    codes: str | None,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    samples: int,
    perception: str | None = None,
    interpolator_from: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Learn a model of keyframes and measure it. A run that was killed is taken up; its evaluation is done anew.

    Args:
        kind: keyin, surprise or tap.
        seed: of the parameters; that of the batches is in `learning`.
        folder: of the run.
        training: file of sequences to learn from.
        test: file of others.
        truth: file of `keep_truth`, to measure by.
        codes: file of the codes to learn from; frames without.
        model: `KeyInConfig` as plain values.
        learning: `kpagent.subgoals.learning.LearningConfig` as plain values.
        samples: of the prior, for each test sequence with a wall.
        perception: file of the model whose keypoints the codes are; it goes into the file of the weights, which then take
            frames.
        interpolator_from: folder of a run whose first stage is taken over, if it is finished and was learned likewise.
        device: auto, cpu or cuda.

    Returns:
        What `model_figures` returns; `sides`, as of `side_figures`, of a KeyIn on codes where there is a wall; `step_ms`;
        `spent`, `wall_s`, `cpu_s` and `peak_memory_mb` of learning.
    """
    from kpagent.benchmarks.keyframe_evaluation import model_figures, side_figures, step_ms
    from kpagent.collect.sequences import Sequences
    from kpagent.subgoals.code_sequences import CodeSequences
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.perceived import load_perception

    true, config = Codes.load(truth), make_learning(learning)
    learner = _new_model(kind, seed, model, device)
    if perception is not None:
        learner.attach(load_perception(perception, learner.device))
    given = Codes.load(codes) if codes is not None else None
    sequences = Sequences(training) if given is None else CodeSequences(list(given.training), str(codes))
    _learn(learner, sequences, config, Path(folder), interpolator_from)

    def pieces() -> Iterator[np.ndarray]:
        if given is None:
            return (batch["frames"] for batch in batches(Sequences(test)))
        return iter(np.split(given.test, range(AT_ONCE, len(given.test), AT_ONCE)))

    result: dict[str, Any] = dict(model_figures(learner, pieces, true.keyframes))
    walls = true.walls(true.test)
    if isinstance(learner, KeyIn) and given is not None and walls is not None:
        result["sides"] = side_figures(learner, given.test, walls, find_puck(given, true), samples)
    return result | {"step_ms": step_ms(learner, sequences, config), "spent": spent(Path(folder))}


def place_keyframes(kind: str, seed: int, *, truth: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Keyframes without a model, measured.

    Args:
        kind: random or constant.
        seed: of what is random.
        truth: file of `keep_truth`.
        model: `KeyInConfig` as plain values, of what they are compared with.

    Returns:
        `found`, as of `discovery_figures`.
    """
    from kpagent.benchmarks.keyframe_evaluation import discovery_figures
    from kpagent.subgoals.baselines import constant_keyframes, random_keyframes
    from kpagent.subgoals.configuration import KeyInConfig

    true, config = Codes.load(truth).keyframes, KeyInConfig.from_dict(dict(model))
    count = len(true)
    found = [constant_keyframes(config)] * count if kind == "constant" else random_keyframes(config, count, seed=seed)
    return {"found": discovery_figures(found, true, config.given)}


def find_puck(codes: Codes, true: Codes) -> Follower:
    """Which point of codes follows the puck best over the training set."""
    from kpagent.benchmarks.keyframe_evaluation import find_followers

    return find_followers(codes.training, true.places(true.training, "puck")[:, :, None])[0]


def load_model(arguments: Mapping[str, Any]) -> KeyframeModel:
    """The model of a finished run, as it was after the last step.

    Args:
        arguments: of the run, as of `learn_keyframes`.
    """
    from kpagent.subgoals.learning import MODEL
    from kpagent.training import pick_device

    return _model_class(arguments["kind"]).load(Path(arguments["folder"]) / MODEL, pick_device(arguments["device"]))


def make_learning(values: Mapping[str, Any]) -> LearningConfig:
    """A `LearningConfig` of the plain values that `kpagent.training.describe` made of it."""
    from kpagent.subgoals.learning import LearningConfig
    from kpagent.training import TrainingConfig

    stages = {name: TrainingConfig(**values[name]) for name in ("interpolator", "keyframes")}
    return LearningConfig(**(dict(values) | stages))


def take_over_interpolator(giver: Path, folder: Path) -> bool:
    """Put the finished first stage of another run where `learn` looks for that of this one; as of `take_over`."""
    return take_over(giver, folder, INTERPOLATOR, "interpolator", _about_interpolator)


def say(report: Report) -> None:
    """A line for the log of the run, where held-out sequences were looked at."""
    if report.held_out is not None:
        loss = report.held_out["loss"]
        print(f"{report.stage}, step {report.step} of {report.steps}: held-out loss {loss:.4f}", flush=True)


def _model_class(kind: str) -> type[KeyframeModel]:
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.surprise import SurprisePredictor
    from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor

    kinds: tuple[type[KeyframeModel], ...] = (KeyIn, SurprisePredictor, TimeAgnosticPredictor)
    return next(each for each in kinds if each.kind == kind)


def _new_model(kind: str, seed: int, values: Mapping[str, Any], device: str) -> KeyframeModel:
    import torch

    from kpagent.subgoals.configuration import KeyInConfig
    from kpagent.training import pick_device

    torch.manual_seed(seed)
    return _model_class(kind)(KeyInConfig.from_dict(dict(values))).to(pick_device(device))


def _learn(model: KeyframeModel, sequences: Any, config: LearningConfig, folder: Path, giver: str | None) -> None:
    """Begin the run in the folder, take it up, or find it finished."""
    from kpagent.subgoals.learning import learn

    run = learn(model, sequences, config, folder, resume=True)
    if giver is not None and take_over_interpolator(Path(giver), folder):
        print(f"took over the interpolator of {giver}", flush=True)
    with contextlib.closing(run), counting(folder) as keep:  # type: ignore[type-var]
        for report in run:
            say(report)
            if report.held_out is not None:
                keep()


def _about_interpolator(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the first stage of a run: all of its settings that are not of the second."""
    unseen = _NOT_OF_INTERPOLATOR - _OF_CHOOSING if settings["model"]["choosing"] else _NOT_OF_INTERPOLATOR
    model = {name: value for name, value in settings["model"].items() if name not in unseen}
    learning = {name: settings["learning"][name] for name in ("joint", "interpolator", "held_out")}
    return {"model": model, "learning": learning, "data": settings["provenance"]["data"]}
