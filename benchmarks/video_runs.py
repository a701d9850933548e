"""The runs of the video benchmark, as `runs.run_all` calls them: learn a Struct-VRNN, then foretell unseen sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.benchmarks.learning_runs import counting, spent, take_over

if TYPE_CHECKING:
    from kpagent.dynamics.learning import LearningConfig, Report
    from kpagent.dynamics.struct_vrnn import StructVRNN

CODE = "checkpoint-code.safetensors"
"""In the folder of a run: the state of its code."""
_NOT_OF_CODE = ("dynamics", "evaluate_every")


def learn_video(
    method: str,
    seed: int,
    folder: str,
    *,
    training: str,
    test: str,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    predicted: int,
    samples: int,
    painted: int,
    painted_samples: int,
    code_from: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Learn one method from a training set with true positions, and measure it on a test set.

    A run that was killed is taken up from its last checkpoint; its evaluation is done anew.

    Args:
        method: its name, for the header of the weights.
        seed: of the parameters; that of the batches is in `learning`.
        folder: of the run.
        training: file of sequences to learn from.
        test: file of others.
        model: `StructVRNNConfig` as plain values.
        learning: `LearningConfig` as plain values.
        predicted: steps to foretell in evaluation.
        samples: futures of each test sequence, of which the best counts.
        painted: test sequences whose futures are painted.
        painted_samples: futures of each of these.
        code_from: folder of a run whose code is taken over, if it is finished and was learned in the same way.
        device: auto, cpu or cuda.

    Returns:
        What `detector_figures` and `future_figures` return; `images`, as of `image_figures`; `learned`, the steps that were
        foretold in training; `spent`, `wall_s`, `cpu_s` and `peak_memory_mb` of learning, without a code that was taken
        over; `evaluation_wall_s`.
    """
    from kpagent.benchmarks.video_evaluation import detector_figures, encode, fit, future_figures, image_figures
    from kpagent.collect.sequences import Sequences
    from kpagent.spending import Meter

    learner, sequences = _new_model(model, seed, device), Sequences(training)
    _learn(learner, sequences, make_learning(learning), Path(folder), code_from, method)
    meter, others = Meter(), Sequences(test)
    length = learner.config.dynamics.observed + predicted
    regression = fit(learner, sequences, length)
    seen = encode(learner, others, length, len(others))
    return {
        **detector_figures(learner, regression, seen),
        **future_figures(learner, regression, seen, samples),
        "images": image_figures(learner, others, predicted, painted, painted_samples),
        "learned": learner.config.dynamics.predicted,
        "spent": spent(Path(folder)),
        "evaluation_wall_s": meter.read()["wall_s"],
    }


def learn_code(
    seed: int,
    folder: str,
    *,
    training: str,
    test: str,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    length: int,
    device: str = "auto",
) -> dict[str, Any]:
    """Learn a code alone, for one cell of the heatmap of Figure S6; arguments as of `learn_video`.

    Args:
        seed: of the parameters.
        folder: of the run.
        training: file of sequences to learn from.
        test: file of others.
        model: `StructVRNNConfig` as plain values.
        learning: `LearningConfig` as plain values.
        length: frames of each test sequence to look at.
        device: auto, cpu or cuda.

    Returns:
        As of `detector_figures`.
    """
    from kpagent.benchmarks.video_evaluation import detector_figures, encode, fit
    from kpagent.collect.sequences import Sequences

    sequences, others = Sequences(training), Sequences(test)
    learner = train_code(seed, Path(folder), sequences, model, learning, device)
    return detector_figures(learner, fit(learner, sequences, length), encode(learner, others, length, len(others)))


def train_code(
    seed: int, folder: Path, sequences: Any, model: Mapping[str, Any], learning: Mapping[str, Any], device: str = "auto"
) -> StructVRNN:
    """A model that has learned its code and no dynamics, from `Sequences`; a run that was killed is taken up.

    Args:
        seed: of the parameters.
        folder: of the run.
        sequences: to learn from.
        model: as of `learn_video`.
        learning: likewise.
        device: auto, cpu or cuda.
    """
    from kpagent.dynamics.learning import learn

    learner = _new_model(model, seed, device)
    run = learn(learner, sequences, make_learning(learning), folder, resume=True)
    with contextlib.closing(run), counting(folder) as keep:  # type: ignore[type-var]
        for report in run:
            if report.stage in ("encoding", "dynamics"):
                break
            say(report)
            if report.evaluation is not None:
                keep()
    return learner.eval()


def look_alike(
    folder: str, *, test: str, weights: str, predicted: int, painted: int, painted_samples: int, device: str = "auto"
) -> dict[str, Any]:
    """VGG cosine similarity of the futures of a finished run and what came, as of `video_evaluation.compare` (Figure 3).

    Args:
        folder: of the run.
        test: file of the test set.
        weights: of VGG-16.
        predicted: steps to foretell.
        painted: test sequences.
        painted_samples: futures of each.
        device: auto, cpu or cuda.
    """
    from kpagent.benchmarks.video_evaluation import compare
    from kpagent.collect.sequences import Sequences
    from kpagent.evaluation.perceptual import load_vgg, vgg_similarity
    from kpagent.training import pick_device

    net = load_vgg(weights, pick_device(device))
    scores = {"vgg": lambda one, other: vgg_similarity(net, one, other)}
    return compare(load_model(folder, device), Sequences(test), predicted, painted, painted_samples, scores)["vgg"]


def move_alike(folder: str, *, test: str, weights: str, predicted: int, videos: int, device: str = "auto") -> float:
    """FVD of one future of each test sequence against what came, predicted frames alone (Figure 3).

    Args:
        folder: of a finished run.
        test: file of the test set.
        weights: of I3D.
        predicted: steps to foretell, 9 or more.
        videos: test sequences.
        device: auto, cpu or cuda.
    """
    import numpy as np

    from kpagent.benchmarks.video_evaluation import paint_futures
    from kpagent.collect.sequences import Sequences
    from kpagent.evaluation.perceptual import features_distance, i3d_features, load_i3d
    from kpagent.training import pick_device

    net, real, imagined = load_i3d(weights, pick_device(device)), [], []
    for future, truth in paint_futures(load_model(folder, device), Sequences(test), predicted, videos, 1):
        real.append(i3d_features(net, truth))
        imagined.append(i3d_features(net, future))
    return features_distance(np.concatenate(real), np.concatenate(imagined))


def make_learning(values: Mapping[str, Any]) -> LearningConfig:
    """A `LearningConfig` of the plain values that `kpagent.training.describe` made of it."""
    from kpagent.dynamics.learning import LearningConfig
    from kpagent.dynamics.motion_start import MotionStartConfig
    from kpagent.training import TrainingConfig

    kinds: dict[str, Any] = {"start": MotionStartConfig, "code": TrainingConfig, "dynamics": TrainingConfig}
    made = {name: kinds[name](**value) if isinstance(value, dict) else value for name, value in values.items()}
    return LearningConfig(**made)


def load_model(folder: str | Path, device: str = "auto") -> StructVRNN:
    """The model of a finished run, as it was after the last step."""
    from kpagent.dynamics.learning import MODEL
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.training import pick_device

    return StructVRNN.load(Path(folder) / MODEL, pick_device(device))


def take_over_code(giver: Path, folder: Path) -> bool:
    """Put the finished code of another run where `learn` looks for that of this one, unless it has begun its own.

    In two stages a code is learned before its dynamics, and without them: runs that differ in dynamics alone learn the very
    same code.

    Args:
        giver: folder of the other run.
        folder: of this run, which `learn` has claimed and not begun.

    Returns:
        Whether it did: the other run has a code that is finished and was learned as this run would learn it.
    """
    return take_over(giver, folder, CODE, "code", _about_code)


def say(report: Report) -> None:
    """A line for the log of the run, where held-out sequences were looked at."""
    seen = report.evaluation
    if seen is not None:
        line = f"{report.stage}, step {report.step} of {report.steps}: held-out loss {seen.loss:.4f}"
        print(f"{line}, squared error {seen.copy_share:.3f} of copying", flush=True)


def _new_model(model: Mapping[str, Any], seed: int, device: str) -> StructVRNN:
    import torch

    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.training import pick_device

    torch.manual_seed(seed)
    return StructVRNN(StructVRNNConfig.from_dict(dict(model))).to(pick_device(device))


def _learn(
    model: StructVRNN, sequences: Any, config: LearningConfig, folder: Path, code_from: str | None, method: str
) -> None:
    """Begin the run in the folder, take it up, or find it finished."""
    from kpagent.dynamics.learning import learn

    run = learn(model, sequences, config, folder, provenance={"method": method}, resume=True)
    if code_from is not None and take_over_code(Path(code_from), folder):
        print(f"took over the code of {code_from}", flush=True)
    with contextlib.closing(run), counting(folder) as keep:  # type: ignore[type-var]
        for report in run:
            say(report)
            if report.evaluation is not None:
                keep()


def _about_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the code of a run: all of its settings that are not of the dynamics."""
    learning = {name: value for name, value in settings["learning"].items() if name not in _NOT_OF_CODE}
    return {"code": settings["model"]["code"], "learning": learning, "data": settings["provenance"]["data"]}
