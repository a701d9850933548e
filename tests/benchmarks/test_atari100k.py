from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_here import do_here

from kpagent.benchmarks.atari100k import Atari100k
from kpagent.benchmarks.literature import PUBLISHED
from kpagent.benchmarks.tables import render_atari100k
from kpagent.errors import UsageError

Measured = tuple[dict[str, Any], Path, list[str]]
"""The result of a small run of the benchmark, the folder it wrote to, and what it said."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("atari100k")
    said: list[str] = []
    benchmark = Atari100k(
        games=("pong",),
        methods=("keyqn_oracle", "random"),
        seeds=(0, 1),
        steps=300,
        episodes=2,
        threads=1,
        runs=folder / "runs",
        pictures=folder / "pictures",
        device="cpu",
    )
    # The first of each method is left for a process of its own.
    for method in benchmark.methods:
        do_here(benchmark._run("pong", method, 1))
    return benchmark.run(said.append), folder, said


def test_figures_are_those_of_the_runs(measured: Measured) -> None:
    result, folder, _ = measured
    figures = result["figures"]
    for method in ("keyqn_oracle", "random"):
        runs = [
            json.loads((folder / f"runs/pong/{method}/seed_{seed}/result.json").read_text())["result"] for seed in (0, 1)
        ]
        scores = [sum(run["scores"]) / 2 for run in runs]
        assert figures[f"pong/{method}/return"]["per_seed"] == pytest.approx(scores)
        assert figures[f"pong/{method}/return"]["value"] == pytest.approx(np.mean(scores))
        # Nobody has learned Pong in 300 interactions.
        assert all(-21 <= score <= -15 for score in scores)
        # Of a process of its own.
        assert 0 < runs[0]["peak_memory_mb"] < 2_000
    assert figures["pong/keyqn_oracle/interactions"]["per_seed"] == [300, 300]
    assert "all/random/iqm" not in figures


def test_pictures_are_drawn(measured: Measured) -> None:
    _, folder, _ = measured
    assert (folder / "pictures/atari100k.png").stat().st_size > 10_000
    assert (folder / "pictures/atari100k_learning.png").stat().st_size > 1_000


def test_runs_are_not_repeated(measured: Measured) -> None:
    result, folder, said = measured
    assert [line.rpartition(": ")[2] for line in said] == ["begun, 1 of 2", "done", "begun, 2 of 2", "done"]
    again: list[str] = []
    benchmark = Atari100k(
        games=("pong",), methods=("random",), seeds=(0, 1, 2), steps=300, episodes=2, finished=True, runs=folder / "runs",
        device="cpu",
    )  # fmt: skip
    figures = benchmark.run(again.append)["figures"]
    assert again == []
    assert figures["pong/random/return"] == result["figures"]["pong/random/return"]


def test_the_table_tells_ours_from_what_others_published(measured: Measured) -> None:
    rows = render_atari100k(measured[0]).splitlines()
    ours = next(row for row in rows if "**Random**" in row)
    assert "measured here" in ours
    theirs = [row for row in rows if any(row.startswith(f"| {each.label}, ") for each in PUBLISHED.values())]
    assert len(theirs) == len(PUBLISHED)
    assert not any("measured here" in row for row in theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ("tetris",)}, "tetris has no published scores"),
        ({"games": ()}, "games must be given"),
        ({"methods": ("rainbow",)}, "no method 'rainbow'"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_mistakes_are_known_before_anything_is_run(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Atari100k(**changes, runs=tmp_path / "runs").run(print)
    assert not (tmp_path / "runs").exists()
