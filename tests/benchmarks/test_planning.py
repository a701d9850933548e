from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_results import assert_result

from kpagent.benchmarks import planning_runs
from kpagent.benchmarks.keyframe_methods import code_config
from kpagent.benchmarks.keyframes import KeyframeDiscovery
from kpagent.benchmarks.planning import Planning, add_figures
from kpagent.benchmarks.planning_figures import draw_bars, draw_execution
from kpagent.benchmarks.planning_methods import Method, learned_dynamics, learned_keyframes
from kpagent.benchmarks.planning_runs import describe_task, plan_tasks
from kpagent.benchmarks.results import Measurement
from kpagent.benchmarks.runs import Run
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.pushing.tasks import draw_tasks
from kpagent.errors import UsageError
from kpagent.files import write_json
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.learning import MODEL
from kpagent.subgoals.surprise import SurprisePredictor
from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor

SERVOING = {"steps": 3, "subgoal_steps": 2, "horizon": 2, "samples": 4, "refits": 1}
SMALL: dict[str, Any] = SERVOING | {"seeds": (0,), "tasks": 2}


def spread(path: Path) -> float:
    image = cv2.imread(str(path))
    assert image is not None
    return float(image.std())


def test_a_small_run_gives_every_figure(tmp_path: Path) -> None:
    methods: tuple[Method, ...] = ("initial", "random", "true_subgoals")
    benchmark = Planning(**SMALL, methods=methods, runs=tmp_path / "runs", pictures=tmp_path / "pictures")
    said: list[str] = []
    result = benchmark.run(said.append)
    assert_result(result)
    figures = {name: each["value"] for name, each in result["figures"].items()}
    for method in methods:
        for group, count in (("all", 2), ("ordinary", 1), ("hard", 1)):
            assert figures[f"{method}/{group}/tasks"] == count
            assert 0 <= figures[f"{method}/{group}/success"] <= 1
        both = [figures[f"{method}/{group}/position_error"] for group in ("ordinary", "hard")]
        assert figures[f"{method}/all/position_error"] == pytest.approx(np.mean(both))
    assert figures["true_subgoals/decision_s"] > 0
    assert "random/decision_s" not in figures
    assert result["figures"]["initial/all/position_error"]["paper"] == 1.32
    for picture in ("planning.png", "planning_true_subgoals.png"):
        assert spread(tmp_path / "pictures" / picture) > 5
    assert len([line for line in said if line.endswith("done")]) == 2
    said.clear()
    again = replace(benchmark, pictures=None, finished=True).run(said.append)
    assert said == []
    assert again["figures"] == result["figures"]
    with pytest.raises(UsageError, match="holds a run with other settings"):
        replace(benchmark, steps=4).run(said.append)


def test_tasks_that_a_killed_run_has_finished_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [describe_task(task) for task in draw_tasks(2, seed=0, hard_share=0.0)]
    given: dict[str, Any] = {"tasks": tasks, "models": str(tmp_path), "servoing": SERVOING}
    first = plan_tasks("no_subgoals", 0, str(tmp_path), **(given | {"tasks": tasks[:1]}))
    kept = (tmp_path / f"task_{tasks[0]['number']}.json").read_bytes()
    both = plan_tasks("no_subgoals", 0, str(tmp_path), **given)
    assert both[:1] == first
    assert (tmp_path / f"task_{tasks[0]['number']}.json").read_bytes() == kept
    # Each has its own draws: alone or after another, a task ends alike.
    alone = plan_tasks("no_subgoals", 0, str(tmp_path / "alone"), **(given | {"tasks": tasks[1:]}))
    assert alone[0]["distance"] == both[1]["distance"]
    monkeypatch.setattr(planning_runs, "Player", None)
    assert plan_tasks("no_subgoals", 0, str(tmp_path), **given) == both


def finish(run: Run) -> None:
    """Put a model that has learned nothing where a run of the keyframes benchmark would have put its own."""
    arguments = dict(run.arguments)
    kinds = {each.kind: each for each in (KeyIn, SurprisePredictor, TimeAgnosticPredictor)}
    if "kind" in arguments:
        torch.manual_seed(0)
        model = kinds[arguments["kind"]](KeyInConfig.from_dict(arguments["model"]))
        if arguments["perception"] is not None:
            model.attach(StructVRNN(code_config("pushing")))
        model.save(Path(arguments["folder"]) / MODEL)
    write_json(run.path, {"function": run.function, "arguments": arguments, "result": None})


def test_subgoals_come_from_the_models_of_the_keyframes_benchmark(tmp_path: Path) -> None:
    methods = ("tap", "surprise", "jumpy", "keyin", "keyin_keypoints", "keyin_positions")
    trained = KeyframeDiscovery(runs=tmp_path / "keyframes")
    tasks = [describe_task(draw_tasks(1, seed=0, hard_share=0.0)[0])]
    planning = Planning(keyframes=trained.runs)
    for method in methods:
        with pytest.raises(UsageError, match=f"{method} needs .*result.json, which is not there; make it with kpagent"):
            planning._require_models(method, [0])
        finish(trained.plan("pushing", method, 0))
        planning._require_models(method, [0])
        found = plan_tasks(method, 0, str(tmp_path / method), tasks=tasks, models=str(trained.runs), servoing=SERVOING)
        assert found[0]["actions"] <= 3
        assert found[0]["distance"] > 0
        # The one that paints has not learned to paint a puck.
        assert found[0]["subgoals"] >= (method != "keyin")
    trained.plan("pushing", "tap", 0).path.write_text("{}")
    with pytest.raises(UsageError, match=r"result.json is no result of a run of kpagent bench keyframes"):
        plan_tasks("tap", 0, str(tmp_path / "again"), tasks=tasks, models=str(trained.runs), servoing=SERVOING)


def test_learned_dynamics_take_no_simulator(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = StructVRNNConfig.fast(2)
    model = StructVRNN(replace(config, dynamics=replace(config.dynamics, actions=3, rnn_units=16)))
    model.save(learned_dynamics(tmp_path, 0))
    task = draw_tasks(1, seed=0, hard_share=0.0)[0]
    given: dict[str, Any] = {"tasks": [describe_task(task)], "models": str(tmp_path), "servoing": SERVOING}
    assert plan_tasks("no_subgoals_learned", 0, str(tmp_path / "straight"), **given)[0]["subgoals"] == 0
    planning = Planning(learned=tmp_path)
    planning._require_models("no_subgoals_learned", [0])
    with pytest.raises(UsageError, match=r"keyin_learned needs .*docs/planning.md"):
        planning._require_models("keyin_learned", [0])
    KeyIn(KeyInConfig.keypoints(4, given=1, longest=6, longest_segment=6, units=8)).save(learned_keyframes(tmp_path, 0))
    assert plan_tasks("keyin_learned", 0, str(tmp_path / "keyin"), **given)[0]["subgoals"] >= 1
    arguments = dict(planning.plan("keyin_learned", 0, [task])[0].arguments, servoing=SERVOING)
    assert draw_execution(arguments, 0, task).std() > 5


def test_figures_worked_by_hand(tmp_path: Path) -> None:
    def ended(*distances: float) -> list[dict[str, Any]]:
        return [{"distance": far, "success": far < 0.3, "decision_s": 0.5, "planning_s": None} for far in distances]

    measurement = Measurement("planning", "")
    results = {"no_subgoals": {0: ended(0.1, 0.5, 0.9), 1: ended(0.2, 0.1, 1.1)}, "keyin": {0: ended(0.1, 0.1, 0.1)}}
    add_figures(measurement, results, [False, True, True])
    figures = measurement.figures
    error = figures["no_subgoals/hard/position_error"]
    assert error["value"] == pytest.approx(0.65)
    assert error["per_seed"] == pytest.approx([0.7, 0.6])
    assert error["ci95"] == pytest.approx([0.3, 1.0])
    assert figures["no_subgoals/all/success"]["value"] == pytest.approx(0.5)
    assert figures["no_subgoals/all/success"]["paper"] == 0.15
    assert "paper" not in figures["no_subgoals/hard/success"]
    assert figures["keyin/all/success"]["ci95"] == [1, 1]
    assert figures["keyin/ordinary/tasks"]["value"] == 1
    assert figures["keyin/decision_s"]["value"] == 0.5
    assert "keyin/planning_s" not in figures
    draw_bars(tmp_path / "bars.png", json.loads(json.dumps(figures)))
    assert spread(tmp_path / "bars.png") > 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ()}, "methods must be of initial, random"),
        ({"methods": ("random", "random")}, "each once"),
        ({"seeds": (0, 0)}, r"seeds must be different and at least 0; got \(0, 0\)"),
        ({"tasks": 1}, "tasks must be at least 2; got 1"),
        ({"hard_share": 1.1}, "hard_share must be from 0 to 1; got 1.1"),
        ({"samples": 1}, "samples must be at least 2; got 1"),
        ({"jobs": 0}, "jobs must be at least 1; got 0"),
        ({"methods": ("random",), "finished": True}, "no run is finished in"),
        ({"methods": ("tap",)}, "tap needs .* which is not there"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = SMALL | fields
    with pytest.raises(UsageError, match=message):
        Planning(**given, runs=tmp_path, keyframes=tmp_path, learned=tmp_path).run(lambda line: None)
    assert list(tmp_path.iterdir()) == []
