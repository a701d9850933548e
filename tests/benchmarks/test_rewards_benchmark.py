from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_results import assert_result

from kpagent.benchmarks.results import Measurement
from kpagent.benchmarks.rewards import RewardPrediction, add_figures
from kpagent.benchmarks.rewards_figures import draw_errors
from kpagent.benchmarks.rewards_runs import learn_task_rewards
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.reward_errors import RewardErrors
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

pytestmark = pytest.mark.usefixtures("short_start")

TASKS = ("dm_control/cartpole-balance-v0", "dm_control/cheetah-run-v0")
SMALL: dict[str, Any] = {
    "methods": ("cnn_vrnn",),
    "seeds": (0,),
    "env": TASKS,
    "sequences": 10,
    "test_sequences": 10,
    "length": 18,
    "keypoints": 3,
    "code_steps": 2,
    "steps": 2,
    "reward_steps": 3,
    "futures": 1,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("rewards")
    benchmark = RewardPrediction(**SMALL, runs=folder / "runs", pictures=folder / "pictures")
    return benchmark.run(lambda line: None), folder


def test_a_small_run_gives_every_figure(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    assert_result(result)
    figures = {name: each["value"] for name, each in result["figures"].items()}
    kept = json.loads((folder / "runs/cnn_vrnn/seed_0/result.json").read_text())["result"]
    for task in ("cartpole_balance", "cheetah_run"):
        errors = RewardErrors.of(kept["errors"][task.replace("_", "-")])
        assert figures[f"{task}/cnn_vrnn/error@observed"] == errors.observed_share > 0
        assert figures[f"{task}/cnn_vrnn/error@imagined10"] == errors.imagined_share > 0
        assert len(errors.observed) == 17
        assert len(errors.imagined) == 10
    assert figures["all/cnn_vrnn/cpu_s"] > 0
    assert figures["recording/frames_per_s_per_core"] > 0
    training, test = (Sequences(folder / "runs" / name) for name in ("control.h5", "control_test.h5"))
    assert training.digest != test.digest
    model = StructVRNN.load(folder / "runs/cnn_vrnn/seed_0/model.safetensors")
    assert (model.config.code.kind, model.config.dynamics.actions) == ("vector", 6)
    # Rewards are learned on what the dynamics were not.
    assert model.provenance["data"]["digest"] == training.digest
    picture = cv2.imread(str(folder / "pictures/rewards_errors.png"))
    assert picture is not None
    assert picture.std() > 5


def test_what_is_there_is_not_done_again(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    said: list[str] = []
    more = SMALL | {"methods": ("struct_vrnn", "cnn_vrnn"), "seeds": (0, 1)}
    again = RewardPrediction(**more, finished=True, runs=folder / "runs").run(said.append)
    assert said == []
    speed = "recording/frames_per_s_per_core"
    same = {name: each for name, each in result["figures"].items() if name != speed}
    assert {name: each for name, each in again["figures"].items() if name != speed} == same
    assert again["command"].endswith("--finished")
    with pytest.raises(UsageError, match="holds a run with other settings"):
        RewardPrediction(**SMALL | {"reward_steps": 4}, runs=folder / "runs").run(said.append)
    with pytest.raises(UsageError, match="no run is finished"):
        RewardPrediction(**SMALL, finished=True, runs=folder / "elsewhere").run(said.append)


def test_a_run_that_was_interrupted_is_taken_up(
    measured: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = measured
    run = RewardPrediction(**SMALL, runs=folder / "runs").plan("cnn_vrnn", 0, 6)
    arguments = dict(run.arguments) | {"folder": str(tmp_path / "run")}

    def interrupt(report: Any) -> None:
        if report.stage == "dynamics" and report.evaluation is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("kpagent.benchmarks.video_runs.say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            learn_task_rewards(**arguments)
    before = json.loads((tmp_path / "run/spent.json").read_text())
    result = learn_task_rewards(**arguments)
    assert result["spent"]["cpu_s"] > before["cpu_s"]
    kept = json.loads((folder / "runs/cnn_vrnn/seed_0/result.json").read_text())["result"]
    for name, errors in result["errors"].items():
        assert errors["observed_share"] == pytest.approx(kept["errors"][name]["observed_share"], rel=1e-3)
    # And again, with nothing left to do.
    assert learn_task_rewards(**arguments)["errors"] == result["errors"]


def test_mistakes_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    small = RewardPrediction(**SMALL, runs=tmp_path / "runs")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"methods": ()}, "methods must be given"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"sequences": 9}, "sequences must be at least 10"),
        ({"length": 17}, r"length must be at least observed \+ imagined"),
        ({"reward_steps": 0}, "steps must be at least 1"),
        ({"keypoints": 0}, "num_keypoints must be from 1 to 256"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"env": ("CartPole-v1",)}, "actions in a Discrete space"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ]
    for changes, message in mistakes:
        with pytest.raises(UsageError, match=message):
            replace(small, **changes).run(lambda line: None)
    assert not (tmp_path / "runs").exists()


def recorded(observed: float, imagined: float) -> dict[str, Any]:
    errors = RewardErrors((observed,) * 9, (imagined,) * 2, (2.0,) * 9, 3)
    return {"errors": {"walker-walk": errors.plain()}, "spent": {"wall_s": 1.0, "cpu_s": 2.0, "peak_memory_mb": 3.0}}


def test_figures_and_curves_are_those_of_recorded_runs(tmp_path: Path) -> None:
    results = {"struct_vrnn": {0: recorded(1.0, 1.5), 1: recorded(2.0, 1.9)}, "cnn_vrnn": {1: recorded(2.0, 4.0)}}
    measurement = Measurement("rewards", "kpagent bench rewards")
    add_figures(measurement, results, 2)
    assert_result(measurement.result())
    figures = measurement.figures
    full = figures["walker_walk/struct_vrnn/error@observed"]
    assert (full["value"], full["per_seed"]) == (0.75, [0.5, 1.0])
    # Student's t with one degree of freedom, 12.706, times a standard error of a quarter.
    assert full["ci95"] == pytest.approx([0.75 - 12.706 / 4, 0.75 + 12.706 / 4], abs=1e-3)
    assert figures["walker_walk/cnn_vrnn/error@imagined2"]["value"] == 2.0
    assert "ci95" not in figures["walker_walk/cnn_vrnn/error@imagined2"]
    curves = {
        method: {"walker-walk": [RewardErrors.of(one["errors"]["walker-walk"]).curves() for one in seeds.values()]}
        for method, seeds in results.items()
    }
    draw_errors(tmp_path / "a.png", curves, first_imagined=3)
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn is not None
    # Both colours are there.
    for colour in ((0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)):
        assert (np.abs(drawn.astype(int) - colour).sum(axis=-1) < 30).any()
