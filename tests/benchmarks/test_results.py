"""What benchmarks leave behind: every committed result keeps to one schema, and small runs make such results."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import torch

from kpagent.benchmarks.keypoint_distance import KeypointDistance
from kpagent.benchmarks.pairs import Pairs
from kpagent.benchmarks.results import FIGURE, RESULT, Measurement, bootstrap_ci95, write
from kpagent.benchmarks.speed import Speed
from kpagent.cli import _parse
from kpagent.cli.bench import Bench
from kpagent.collect.pairs import FramePairs
from kpagent.errors import UsageError
from kpagent.perception.transporter import Transporter, TransporterConfig

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def refuse(constant: str) -> Never:
    raise AssertionError(f"{constant} is no JSON")


def assert_result(result: Any) -> None:
    """Whether a result is as DESIGN and `kpagent.benchmarks.results` have it."""
    assert result.keys() == RESULT
    assert re.fullmatch(r"[a-z0-9_]+", result["benchmark"])
    assert result["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", result["commit"])
    assert datetime.fromisoformat(result["date"]).tzinfo is not None
    assert result["date"].endswith("Z")
    assert result["machine"].keys() == {"processor", "cores", "memory_gb", "gpu", "system"}
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["memory_gb"] > 0
    assert result["versions"].keys() >= {"python", "kpagent", "torch", "numpy", "gymnasium"}
    assert all(re.match(r"\d+\.\d+", version) for version in result["versions"].values())
    assert result["wall_s"] >= 0
    # The command can be given again.
    name, *arguments = shlex.split(result["command"])
    assert name == "kpagent"
    assert isinstance(_parse(arguments), Bench)
    assert result["figures"]
    for name, figure in result["figures"].items():
        assert re.fullmatch(r"[A-Za-z0-9_]+(/[A-Za-z0-9_@.]+)+", name)
        assert_figure(figure)


def assert_figure(figure: dict[str, Any]) -> None:
    assert {"value", "unit"} <= figure.keys() <= FIGURE
    assert isinstance(figure["unit"], str)
    numbers = [figure["value"], *figure.get("ci95", []), *figure.get("per_seed", []), figure.get("paper", 0)]
    assert all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    if "ci95" in figure:
        low, high = figure["ci95"]
        assert low <= high
    if "per_seed" in figure:
        assert figure["value"] == pytest.approx(np.mean(figure["per_seed"]))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*")), ids=lambda path: path.name)
def test_every_committed_result_keeps_to_the_schema(path: Path) -> None:
    assert path.suffix == ".json"
    result = json.loads(path.read_text(), parse_constant=refuse)
    assert_result(result)
    assert result["benchmark"] == path.stem


def test_what_was_measured_comes_back_from_the_file(tmp_path: Path) -> None:
    measurement = Measurement("speed", "kpagent bench speed --rounds 3")
    measurement.add("wrapper/vector/ratio", np.float64(0.5), "", ci95=(0.25, 0.75), paper=1)
    measurement.add("pong/keyqn/return", 2, "points", per_seed=[1.0, np.float64(3.0)])
    result = measurement.result()
    path = write(result, tmp_path / "new")
    assert path == tmp_path / "new" / "speed.json"
    again = json.loads(path.read_text(), parse_constant=refuse)
    assert again == result
    assert_result(again)
    assert again["command"] == "kpagent bench speed --rounds 3"
    assert again["figures"] == {
        "wrapper/vector/ratio": {"value": 0.5, "unit": "", "ci95": [0.25, 0.75], "paper": 1.0},
        "pong/keyqn/return": {"value": 2.0, "unit": "points", "per_seed": [1.0, 3.0]},
    }


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_ci95(values)
    assert (low, high) == bootstrap_ci95(values)
    # Of a mean of 400 normal numbers it is known: 1.96 standard errors to each side.
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    Transporter(TransporterConfig.fast(4)).save(path, inference_only=True)
    return str(path)


def test_keypoint_distances_of_random_weights(weights: str) -> None:
    lines: list[str] = []
    benchmark = KeypointDistance(games=("pong",), weights=(weights,), frames=40, device="cpu")
    result = benchmark.run(lines.append)
    assert_result(result)
    figures = result["figures"]
    objects = ("player", "enemy", "ball")
    kinds = ("distance", "distance_p95", "frames")
    assert figures.keys() == {f"pong/transporter/{kind}/{name}" for kind in kinds for name in objects}
    assert len(lines) == 3
    for name in objects:
        distance, p95, frames = (figures[f"pong/transporter/{kind}/{name}"]["value"] for kind in kinds)
        assert 0 < distance < 2 * math.sqrt(2)
        assert distance < p95 < 2 * math.sqrt(2)
        assert 1 <= frames <= 40
        low, high = figures[f"pong/transporter/distance/{name}"]["ci95"]
        assert low <= distance <= high
    assert figures["pong/transporter/frames/player"]["value"] == 40
    assert benchmark.run(lines.append)["figures"] == figures
    assert replace(benchmark, seed=1).run(lines.append)["figures"] != figures


def test_keypoint_distances_need_every_object_and_a_keypoint_for_each(weights: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^pong in 1 frames: an object is absent from every frame$"):
        KeypointDistance(games=("pong",), weights=(weights,), frames=1, device="cpu").run(print)
    Transporter(TransporterConfig.fast(2)).save(tmp_path / "two.safetensors")
    with pytest.raises(UsageError, match=r"^pong in 40 frames: 2 keypoints cannot follow 3 objects one to one$"):
        KeypointDistance(games=("pong",), weights=(str(tmp_path / "two.safetensors"),), frames=40, device="cpu").run(print)


def test_pairs_are_measured_and_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    result = Pairs(capacity=64, interactions=1_500, trajectory_length=20, save=tmp_path / "pairs.h5").run(lines.append)
    assert_result(result)
    figures = {name: figure["value"] for name, figure in result["figures"].items()}
    assert figures["pairs/interactions_per_s"] > 0
    assert figures["pairs/interactions_per_s_per_core"] > 0
    assert 0 < figures["pairs/coverage"] < 1
    assert figures["pairs/coverage_gain"] == pytest.approx(figures["pairs/coverage"] / figures["pairs/coverage_filled"])
    assert figures["pairs/peak_memory_mb"] > figures["pairs/memory_stated_mb"] > 0
    kept = FramePairs.load(tmp_path / "pairs.h5")
    assert len(kept) == 64
    assert kept.info["coverage"] == figures["pairs/coverage"]
    assert lines[-1] == f"wrote {tmp_path / 'pairs.h5'}"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"num_envs": 0}, {"keypoints": 0}, {"device": "abacus"}])
def test_speed_is_not_measured_with_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        Speed(**wrong).run(print)
