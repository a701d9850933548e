from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_results import assert_result

from kpagent.benchmarks.recognition import Recognition, add_figures
from kpagent.benchmarks.recognition_figures import draw_confusion
from kpagent.benchmarks.recognition_runs import recognize_actions
from kpagent.benchmarks.results import Measurement
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.recognition import TRUTH, ActionRecognizer
from kpagent.dynamics.recognition_accuracy import Confusion
from kpagent.envs.walker_gaits import MOTIONS
from kpagent.errors import UsageError

SMALL: dict[str, Any] = {
    "methods": ("cnn_vrnn",),
    "seeds": (0,),
    "sequences": 10,
    "test_sequences": 24,
    "length": 16,
    "keypoints": 3,
    "code_steps": 2,
    "recognition_steps": 3,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("recognition")
    benchmark = Recognition(**SMALL, runs=folder / "runs", pictures=folder / "pictures")
    return benchmark.run(lambda line: None), folder


def test_a_small_run_gives_every_figure(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    assert_result(result)
    figures = {name: each["value"] for name, each in result["figures"].items()}
    training, test = (Sequences(folder / "runs" / name) for name in ("motions.h5", "motions_test.h5"))
    assert training.digest != test.digest
    assert test.label_names == MOTIONS
    kept = json.loads((folder / "runs/cnn_vrnn/seed_0/result.json").read_text())["result"]
    found = Confusion.of(kept["confusion"])
    assert figures["motions/cnn_vrnn/accuracy"] == found.accuracy
    assert np.sum(found.counts) == 5
    for name, share in zip(MOTIONS, np.diag(found.shares()), strict=True):
        assert figures.get(f"motions/cnn_vrnn/accuracy/{name}", np.nan) == pytest.approx(share, nan_ok=True)
    assert figures["all/cnn_vrnn/cpu_s"] > 0
    recognizer = ActionRecognizer.load(folder / "runs/cnn_vrnn/seed_0/recognition/recognition.safetensors")
    # Actions are recognised on what the code was not learned from.
    assert recognizer.provenance["data"]["digest"] == test.digest
    assert (recognizer.config.inputs, len(recognizer.config.source)) == (9, 64)
    assert 1 / 5 <= figures["motions/most_frequent/accuracy"] < 1
    picture = cv2.imread(str(folder / "pictures/recognition.png"))
    assert picture is not None
    assert picture.std() > 5


def test_what_is_there_is_not_done_again(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    said: list[str] = []
    more = SMALL | {"methods": ("struct_vrnn", "cnn_vrnn", "coordinates"), "seeds": (0, 1)}
    again = Recognition(**more, finished=True, runs=folder / "runs").run(said.append)
    assert said == []
    assert again["figures"] == result["figures"]
    assert again["command"].endswith("--finished")
    with pytest.raises(UsageError, match="holds a run with other settings"):
        Recognition(**SMALL | {"recognition_steps": 4}, runs=folder / "runs").run(said.append)
    with pytest.raises(UsageError, match="no run is finished"):
        Recognition(**SMALL, finished=True, runs=folder / "elsewhere").run(said.append)


def test_true_positions_need_no_code(measured: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = measured
    run = Recognition(**SMALL, runs=folder / "runs").plan("coordinates", 0)
    found = Confusion.of(recognize_actions(**(dict(run.arguments) | {"folder": str(tmp_path)}))["confusion"])
    assert np.sum(found.counts) == 5
    config = ActionRecognizer.load(tmp_path / "recognition/recognition.safetensors").config
    assert (config.classes, config.inputs, config.source) == (MOTIONS, 18, TRUTH)


def test_a_run_that_was_interrupted_is_taken_up(
    measured: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = measured
    run = Recognition(**SMALL, runs=folder / "runs").plan("cnn_vrnn", 0)
    arguments = dict(run.arguments) | {"folder": str(tmp_path / "run")}

    def interrupt(report: Any) -> None:
        if report.evaluation is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("kpagent.benchmarks.video_runs.say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recognize_actions(**arguments)
    before = json.loads((tmp_path / "run/spent.json").read_text())
    result = recognize_actions(**arguments)
    assert result["spent"]["cpu_s"] > before["cpu_s"]
    kept = json.loads((folder / "runs/cnn_vrnn/seed_0/result.json").read_text())["result"]
    assert result["confusion"] == kept["confusion"]
    # And again, with nothing left to do.
    assert recognize_actions(**arguments)["confusion"] == result["confusion"]


def test_mistakes_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    small = Recognition(**SMALL, runs=tmp_path / "runs")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"methods": ()}, "methods must be given"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"sequences": 9}, "sequences must be at least 10"),
        ({"test_sequences": 23}, "test_sequences must be at least 24"),
        ({"length": 15}, "length must be at least 16"),
        ({"recognition_steps": 0}, "steps must be at least 1"),
        ({"keypoints": 0}, "num_keypoints must be from 1 to 256"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ]
    for changes, message in mistakes:
        with pytest.raises(UsageError, match=message):
            replace(small, **changes).run(lambda line: None)
    assert not (tmp_path / "runs").exists()


def recorded(*counts: tuple[int, int]) -> dict[str, Any]:
    found = Confusion(("walk", "hop"), counts)
    return {"confusion": found.plain(), "spent": {"wall_s": 1.0, "cpu_s": 2.0, "peak_memory_mb": 3.0}}


def test_figures_and_picture_are_those_of_recorded_runs(tmp_path: Path) -> None:
    results = {
        "struct_vrnn": {0: recorded((3, 1), (0, 4)), 1: recorded((4, 0), (3, 1))},
        "cnn_vrnn": {1: recorded((2, 2), (1, 3))},
    }
    measurement = Measurement("recognition", "kpagent bench recognition")
    add_figures(measurement, results)
    assert_result(measurement.result())
    figures = measurement.figures
    full = figures["motions/struct_vrnn/accuracy"]
    assert (full["value"], full["per_seed"]) == (0.75, [0.875, 0.625])
    # Student's t with one degree of freedom, 12.706, times a standard error of an eighth.
    assert full["ci95"] == pytest.approx([0.75 - 12.706 / 8, 0.75 + 12.706 / 8], abs=1e-3)
    assert figures["motions/struct_vrnn/accuracy/hop"]["per_seed"] == [1.0, 0.25]
    assert "ci95" not in figures["motions/cnn_vrnn/accuracy"]
    assert figures["motions/most_frequent/accuracy"]["value"] == 0.5
    sure, unsure = (
        Confusion(("walk", "hop", "none"), (*rows, (0, 0, 0))) for rows in (((9, 0, 0), (0, 9, 0)), ((1, 1, 0),) * 2)
    )
    draw_confusion(tmp_path / "a.png", {"struct_vrnn": [sure, sure], "cnn_vrnn": [unsure]})
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn is not None
    # The darkest blue of the palette is on the diagonal, and white beside it.
    assert (np.abs(drawn.astype(int) - (0x6B, 0x30, 0x08)).sum(axis=-1) < 20).mean() > 0.05
