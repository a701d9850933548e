"""The robustness benchmark, whole, on a real game over a sliding background."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kpagent.benchmarks.robustness import Robustness
from kpagent.errors import UsageError


def test_it_measures_shipped_and_continued_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    bench = Robustness(
        cases=("pong_sliding",), steps=2, capacity=64, interactions=6_500, episodes=1, length=10, device="cpu"
    )
    figures = bench.run(said.append)["figures"]
    for variant in ("shipped", "continued", "aligned", "fresh"):
        for measure in ("precision@10", "recall@10", "tracked_fraction"):
            assert 0 <= figures[f"pong_sliding/{variant}/{measure}"]["value"] <= 1
            assert f"pong_sliding/{variant}/pong/{measure}" in figures
    # The shipped weights know Pong, and what they know is measured too.
    assert figures["pong_sliding/shipped/pong/recall@10"]["value"] > 0.9
    said.clear()
    assert bench.run(said.append)["figures"] == figures
    assert not any("step" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": ("pong",)}, "no case 'pong'; there are pong_sliding"),
        ({"cases": ()}, "at least once"),
        ({"length": 0}, "length must be at least 1"),
    ],
)
def test_a_wrong_argument_gets_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Robustness(), **changes).run(lambda line: None)
