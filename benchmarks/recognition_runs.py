"""The runs of the recognition benchmark, as `runs.run_all` calls them: learn a code without labels, then recognise by it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpagent.benchmarks.learning_runs import counting, spent

RECOGNITION = "recognition"
"""In the folder of a run: that of its recogniser."""


def recognize_actions(
    method: str,
    seed: int,
    folder: str,
    *,
    test: str,
    recognition_steps: int,
    length: int,
    training: str | None = None,
    model: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Learn a code from one set of sequences, and to recognise actions by it on another, of which a share is kept.

    A run that was killed is taken up from its last checkpoint. Dynamics are not learned: nothing is foretold here.

    Args:
        method: its name, for the header of the recogniser.
        seed: of the parameters of both; that of the batches of the code is in `learning`.
        folder: of the run.
        test: file of labelled sequences.
        recognition_steps: steps of the recogniser.
        length: frames of a window.
        training: file of sequences to learn the code from.
        model: `StructVRNNConfig` as plain values; without, true positions take the place of codes.
        learning: `LearningConfig` as plain values.
        device: auto, cpu or cuda.

    Returns:
        `confusion`: of held-out windows, `Confusion.plain()`; `spent`: `wall_s`, `cpu_s` and `peak_memory_mb`.
    """
    from kpagent.benchmarks.video_runs import train_code
    from kpagent.collect.sequences import Sequences
    from kpagent.dynamics.recognition import ActionRecognizer
    from kpagent.dynamics.recognition_learning import MODEL, RecognitionLearningConfig, learn_recognition

    place, coder = Path(folder), None
    if model is not None and training is not None and learning is not None:
        coder = train_code(seed, place, Sequences(training), model, learning, device)
    config = RecognitionLearningConfig.of(recognition_steps, seed, length=length)
    about = {"method": method}
    run = learn_recognition(coder, Sequences(test), config, place / RECOGNITION, provenance=about, resume=True)
    with counting(place) as keep, contextlib.closing(run):  # type: ignore[type-var]
        for report in run:
            if report.confusion is not None:
                keep()
                accuracy = report.confusion.accuracy
                print(f"recognition, step {report.step} of {report.steps}: accuracy {accuracy:.3f}", flush=True)
    found = ActionRecognizer.load(place / RECOGNITION / MODEL).provenance["held_out"]
    return {"confusion": found, "spent": spent(place)}
