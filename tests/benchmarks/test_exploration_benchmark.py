from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from runs_here import do_here
from test_results import assert_result

from kpagent.agents.exploration_log import ExplorationLog
from kpagent.agents.option_evaluation import Episodes
from kpagent.benchmarks.exploration import Exploration
from kpagent.benchmarks.exploration_figures import COLOURS, draw_returns
from kpagent.benchmarks.exploration_runs import explore_game, summary
from kpagent.benchmarks.exploration_visits import Visits
from kpagent.benchmarks.tables import fill
from kpagent.errors import UsageError

SMALL: dict[str, Any] = {
    "games": ("montezuma_revenge",),
    "seeds": (0,),
    "frames": 5_200,
    "episodes": 2,
    "longest": 60,
    "warm_up": 1_000,
    "warm_up_steps": 1,
    "keypoint_steps": 0,
    "threads": 1,
    "device": "cpu",
}
METHODS = ("options", "random")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("exploration")
    benchmark = Exploration(**SMALL, runs=folder / "runs", pictures=folder / "pictures")
    do_here(benchmark.plan("montezuma_revenge", 0))
    return benchmark.run(lambda line: None), folder


def test_a_small_run_gives_every_figure(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    assert_result(result)
    figures = {name.removeprefix("montezuma_revenge/"): each["value"] for name, each in result["figures"].items()}
    run = json.loads((folder / "runs/montezuma_revenge/seed_0/result.json").read_text())["result"]
    for method in METHODS:
        # Nobody takes the key in 60 interactions.
        assert figures[f"{method}/return"] == figures[f"{method}/return_p95"] == figures[f"{method}/key_rate"] == 0
        assert figures[f"{method}/rooms"] == 1
        assert 1 < figures[f"{method}/cells"] == figures[f"{method}/first_room_cells"] <= 120
        assert figures[f"{method}/length"] == 60
        assert figures[f"{method}/cut_rate"] == 1
        assert np.sum(run[method]["places"]) == 120
    assert "ratio" not in figures
    assert figures["cells_ratio"] == figures["options/cells"] / figures["random/cells"]
    assert 0 <= figures["avatar_share"] <= figures["avatar_share_epsilon"] <= 1
    assert 1_300 <= figures["options/interactions"] < 1_620
    per_second = figures["options/interactions"] / figures["options/wall_s"]
    assert figures["options/interactions_per_s"] == pytest.approx(per_second)
    assert figures["options/cpu_s"] > 0
    assert 100 < figures["options/peak_memory_mb"] < 4_000
    assert "--frames 5200 --episodes 2 --longest 60 --warm-up 1000 --warm-up-steps 1" in result["command"]


def test_runs_are_not_repeated_and_pictures_are_drawn(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    said: list[str] = []
    other = SMALL | {"games": ("montezuma_revenge", "seaquest"), "seeds": (0, 1)}
    again = Exploration(**other, finished=True, runs=folder / "runs").run(said.append)
    assert said == []
    assert again["figures"] == result["figures"]
    assert again["command"].endswith("--finished")
    for name in ("exploration", "exploration_montezuma_revenge"):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match="no run is finished"):
        Exploration(finished=True, runs=folder / "elsewhere").run(said.append)


def played(scores: list[float], **changes: Any) -> dict[str, Any]:
    count, places = len(scores), np.zeros((21, 16), int)
    places[3, 4] = 7
    games = {"scores": scores, "interactions": [10] * count, "cut": [False] * count, "keys": [False] * count}
    return games | {"cells": 8, "first_room": 6, "rooms": 2, "places": places.tolist()} | changes


def write_runs(benchmark: Exploration, results: dict[str, list[dict[str, Any]]]) -> None:
    for game, seeds in results.items():
        for seed, result in enumerate(seeds):
            run = benchmark.plan(game, seed)
            run.path.parent.mkdir(parents=True)
            kept = {"function": run.function, "arguments": run.arguments, "result": result}
            run.path.write_text(json.dumps(kept))


def recorded(options: dict[str, Any], random: dict[str, Any], **changes: Any) -> dict[str, Any]:
    spent = {"wall_s": 50.0, "cpu_s": 80.0, "peak_memory_mb": 700.0}
    parts = {"interactions": 2_000, "spent": spent, "compared": 20, "evaluation_wall_s": 1.0}
    return parts | {"avatar": {"half_epsilon": 0.8, "epsilon": 0.9}, "options": options, "random": random} | changes


def test_figures_are_those_of_recorded_runs(tmp_path: Path) -> None:
    benchmark = Exploration(games=("montezuma_revenge", "ms_pacman"), seeds=(0, 1), runs=tmp_path / "runs")
    key = {"keys": [True, False, False, True], "cells": 40, "first_room": 30, "rooms": 3}
    nothing = played([0.0] * 4, cells=10)
    montezuma = [
        recorded(played([100.0, 0.0, 0.0, 400.0], **key), nothing),
        recorded(played([0.0] * 4, cells=20, first_room=18, cut=[True, False, False, False]), nothing, spent=None),
    ]
    pacman = [
        recorded(played([300.0, 500.0]), played([100.0, 300.0])),
        recorded(
            played([600.0, 600.0]), played([250.0, 150.0]), interactions=3_000, avatar={"half_epsilon": 0.6, "epsilon": 0.7}
        ),
    ]
    write_runs(benchmark, {"montezuma_revenge": montezuma, "ms_pacman": pacman})
    result = benchmark.run(lambda line: None)
    assert_result(result)
    figures = result["figures"]

    assert figures["ms_pacman/options/return"]["per_seed"] == [400, 600]
    assert figures["ms_pacman/random/return"]["value"] == 200
    assert figures["ms_pacman/ratio"]["value"] == 2.5
    # Student's t with one degree of freedom, 12.706, times a standard error of 100.
    assert figures["ms_pacman/options/return"]["ci95"] == pytest.approx([500 - 1270.62, 500 + 1270.62], abs=0.1)
    assert figures["ms_pacman/options/return_std"]["per_seed"] == [100, 0]
    assert figures["ms_pacman/options/return_p5"]["per_seed"] == [310, 600]
    assert figures["ms_pacman/random/return_p95"]["per_seed"] == pytest.approx([290, 245])
    assert figures["ms_pacman/avatar_share"]["value"] == pytest.approx(0.7)
    assert figures["ms_pacman/options/interactions_per_s"]["per_seed"] == [40, 60]
    assert "ms_pacman/options/key_rate" not in figures
    assert "ms_pacman/options/rooms" not in figures

    assert figures["montezuma_revenge/options/key_rate"]["per_seed"] == [0.5, 0]
    assert figures["montezuma_revenge/random/key_rate"]["value"] == 0
    assert figures["montezuma_revenge/options/cells"]["per_seed"] == [40, 20]
    assert figures["montezuma_revenge/cells_ratio"]["value"] == 3
    assert figures["montezuma_revenge/first_room_cells_ratio"]["value"] == 4
    assert figures["montezuma_revenge/options/rooms"]["value"] == 2.5
    assert figures["montezuma_revenge/options/cut_rate"]["value"] == 0.125
    # A random player who scores nothing has no ratio; what a run does not say of its cost is not made up.
    assert "montezuma_revenge/ratio" not in figures
    assert "montezuma_revenge/options/wall_s" not in figures

    (tmp_path / "exploration.json").write_text(json.dumps(result))
    rows = fill("<!-- exploration -->\nold\n<!-- end -->", tmp_path).splitlines()
    assert "old" not in rows
    assert rows[3].startswith("| montezuma_revenge | keypoint options | 62.5 (0 to 125) |")
    assert rows[3].endswith("| 30 (20 to 40) | 24 (18 to 30) | 2.5 (2 to 3) | 0.25 (0 to 0.5) |")
    assert rows[6].startswith("| ms_pacman | random actions | 200 (200 to 200) | 75 (50 to 100) | 132 (110 to 155) |")
    assert "| ms_pacman | 2.5 | 1 |  | 0.7 (0.6 to 0.8) | 50 (40 to 60) | 2 |" in rows
    assert "--games montezuma_revenge ms_pacman --seeds 0 1 --frames 10000000 --episodes 100" in rows[-2]


def test_places_are_compared_after_as_many_interactions() -> None:
    avatar = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.9, -0.9]])
    visits = Visits(np.array([0, 1, 0, 1]), avatar, np.array([1, 1, 2, 1]), np.array([0.0, 0, 0, 100]))
    games = Episodes(np.array([0.0, 100.0]), np.array([2, 2]), np.array([False, True]))
    found = summary(games, visits, 3)
    assert (found["cells"], found["first_room"], found["rooms"]) == (3, 2, 2)
    assert np.sum(found["places"]) == 2
    # Keys are counted to the end of each game.
    assert found["keys"] == [False, True]
    assert found["scores"] == [0, 100]
    assert found["cut"] == [False, True]


def test_a_run_that_was_interrupted_is_taken_up_and_its_cost_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"warm_up": 1_000, "warm_up_steps": 2, "envs": 4, "round_length": 80, "num_keypoints": 2}
    settings |= {"network": {"filters": [4, 4, 4], "embedding": 16, "hidden": 8, "image_size": 36}}
    settings |= {"learning": {"batch_size": 2}, "keypoints": {"batch_size": 2}}

    def run() -> dict[str, Any]:
        return explore_game(
            "ALE/MsPacman-v5", 0, str(tmp_path), frames=5_200, episodes=2, longest=15, epsilon=0.15, device="cpu",
            settings=settings,
        )  # fmt: skip

    heard: list[int] = []
    note = ExplorationLog.note

    def interrupt(self: ExplorationLog, turn: Any) -> None:
        note(self, turn)
        heard.append(turn.interactions)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ExplorationLog, "note", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    before = json.loads((tmp_path / "spent.json").read_text())
    assert heard[-1] == 960
    assert (tmp_path / "checkpoint.safetensors").exists()

    result = run()
    # Two rounds more, of 320 each.
    assert result["interactions"] == heard[-1] + 640
    assert all(result["spent"][name] > before[name] for name in ("wall_s", "cpu_s"))
    assert result["spent"]["peak_memory_mb"] >= before["peak_memory_mb"]
    assert result["compared"] == 30
    assert 0 <= result["avatar"]["half_epsilon"] <= result["avatar"]["epsilon"] <= 1

    # What is finished is only played again, in the same way.
    again = run()
    again.pop("evaluation_wall_s")
    assert again == {name: value for name, value in result.items() if name != "evaluation_wall_s"}


def test_what_is_compared_has_two_colours(tmp_path: Path) -> None:
    scores = {"options": [[1.0, 2.0, 9.0], [2.0, 3.0, 4.0]], "random": [[0.0, 1.0], [1.0, 1.0]]}
    draw_returns(tmp_path / "exploration.png", {"seaquest": scores, "ms_pacman": scores})
    image = cv2.imread(str(tmp_path / "exploration.png"))
    assert image is not None
    colours, counts = np.unique(image[..., ::-1].reshape(-1, 3), axis=0, return_counts=True)
    found = {"#{:02X}{:02X}{:02X}".format(*colour) for colour in colours[counts >= 200]}
    assert set(COLOURS) <= found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ("pong",)}, "games must be among montezuma_revenge, ms_pacman, seaquest; got"),
        ({"games": ()}, "games must be given"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"frames": 80_000}, "frames must be more than the 80000 of the warm-up; got 80000"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"longest": 0}, "longest must be at least 1"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"warm_up": 10}, "warm_up must be at least 1000"),
        ({"updates": 0}, "updates must be at least 1"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_mistakes_are_known_before_anything_is_run(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Exploration(**changes, runs=tmp_path / "runs").run(print)
    assert not (tmp_path / "runs").exists()
