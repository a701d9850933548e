"""The control benchmark: its figures from made-up runs, and small real runs of each method."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kpagent.benchmarks.control import Control, add_figures, return_after
from kpagent.benchmarks.control_literature import PUBLISHED
from kpagent.benchmarks.control_runs import METHODS, learning_config, run_control
from kpagent.benchmarks.results import Measurement
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.errors import UsageError
from kpagent.training import describe

CARTPOLE = "dm_control/cartpole-balance-v0"


def learning(**changes: Any) -> dict[str, Any]:
    values = {"interactions": 60, "random": 45, "first_updates": 2, "updates": 0.05, "code_steps": 2, "candidates": 4}
    return {**values, "seed": 0, **changes}


def small_model() -> dict[str, Any]:
    base = StructVRNNConfig.planning(2, 1)
    code = replace(base.code, filters=(4, 8), extra_layers=0)
    dynamics = replace(base.dynamics, observed=4, predicted=3, rnn_units=8)
    return describe(StructVRNNConfig(code, dynamics))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_runs(method: str, tmp_path: Path) -> None:
    changes = {"batch_size": 4, "learning_starts": 5, "buffer_size": 60} if "sac" in method else {}
    result = run_control(
        method,
        CARTPOLE,
        25,
        0,
        str(tmp_path),
        model=small_model(),
        learning=learning(),
        episodes=1,
        device="cpu",
        changes=changes,
    )
    assert json.loads(json.dumps(result)) == result
    assert len(result["returns"]) == 1
    assert 0 <= result["returns"][0] <= 1000
    assert result["interactions"] == (0 if method == "random" else 60)
    assert result["decisions_per_s"] > 0
    if method in ("keypoint_mpc", "model_only"):
        assert [at for at, _, _ in result["curve"]] == ([40, 45, 60] if method == "keypoint_mpc" else [40, 60])
    if method == "sac_pixels":
        assert [at for at, _, _ in result["curve"]] == [40]
    if method != "random":
        assert result["wall_s"] > 0
        seconds = [at for _, _, at in result["curve"]]
        assert seconds == sorted(seconds)


def test_what_was_played_at_random_alone_learns_as_much_and_no_rewards() -> None:
    ours, alone = (learning_config(learning(updates=1.0), method) for method in ("keypoint_mpc", "model_only"))
    assert alone.random == alone.interactions == ours.interactions == 60
    assert alone.due(60) == ours.due(60) == 2 + 15
    assert (ours.rewards.shapes, alone.rewards.shapes) == (True, False)


def made_up(value: float, wall: float) -> dict[str, Any]:
    curve = [[10 * n, value + n, 10.0 * n] for n in range(1, 31)]
    spent = {"wall_s": wall, "cpu_s": 2 * wall, "peak_memory_mb": 100.0}
    return {"returns": [value - 1, value + 1], "interactions": 300, "curve": curve, "decisions_per_s": 25.0, **spent}


def test_figures_are_means_over_seeds() -> None:
    measurement = Measurement("control", "command")
    random = {"returns": [5.0], "interactions": 0, "curve": [], "decisions_per_s": 1e5}
    results: dict[str, Any] = {
        "cheetah-run": {
            "keypoint_mpc": {0: made_up(100, 90), 1: made_up(200, 110)},
            "sac_pixels": {0: made_up(50, 900), 1: made_up(60, 900)},
            "random": {0: random},
        }
    }
    add_figures(measurement, results)
    figures = measurement.figures
    assert figures["cheetah_run/keypoint_mpc/return"]["value"] == 150
    assert figures["cheetah_run/keypoint_mpc/return"]["per_seed"] == [100, 200]
    assert figures["cheetah_run/keypoint_mpc/wall_s"]["value"] == 100
    # The tenth episode ended after 100 s: the first ten.
    assert figures["cheetah_run/sac_pixels/return@wall"]["per_seed"] == [55.5, 65.5]
    assert "cheetah_run/random/return@wall" not in figures
    assert figures["cheetah_run/random/return"]["value"] == 5
    assert "cheetah_run/random/wall_s" not in figures


def test_the_last_episodes_count() -> None:
    curve = [[n, float(n), float(n)] for n in range(1, 21)]
    assert return_after(curve, 100.0) == 15.5
    assert return_after(curve, 0.5) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks must be given, each once"),
        ({"methods": ("random", "random")}, "methods must be given, each once"),
        ({"seeds": ()}, "seeds must be different"),
        ({"random": 50_000}, "interactions must be more than random"),
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"tasks": ("cartpole-dance",)}, "no environment called 'dm_control/cartpole-dance-v0'"),
        ({"finished": True, "tasks": ("cartpole-balance",)}, "no run is finished in"),
    ],
)
def test_mistakes_are_said_before_anything_runs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    benchmark = Control(runs=tmp_path / "runs", **changes)
    with pytest.raises(UsageError, match=re.escape(message)):
        benchmark.run(lambda line: None)
    assert not (tmp_path / "runs").exists()


def test_published_returns_are_those_of_known_tasks() -> None:
    tasks = {"cartpole-balance", "reacher-easy", "cheetah-run", "walker-walk", "walker-stand", "acrobot-swingup"}
    for each in PUBLISHED.values():
        assert each.at_100k.keys() == each.at_500k.keys()
        assert each.at_100k.keys() <= tasks
        # All learn on between the two.
        assert all(0 < each.at_100k[task] < each.at_500k[task] <= 1000 for task in each.at_100k)
