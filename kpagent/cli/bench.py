"""`kpagent bench`: measure, and keep what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.table import Table

from kpagent.benchmarks.atari100k import Atari100k
from kpagent.benchmarks.control import Control
from kpagent.benchmarks.exploration import Exploration
from kpagent.benchmarks.keyframes import KeyframeDiscovery
from kpagent.benchmarks.keypoint_distance import KeypointDistance
from kpagent.benchmarks.pairs import Pairs
from kpagent.benchmarks.planning import Planning
from kpagent.benchmarks.recognition import Recognition
from kpagent.benchmarks.rewards import RewardPrediction
from kpagent.benchmarks.robustness import Robustness
from kpagent.benchmarks.scaling import Scaling
from kpagent.benchmarks.speed import Speed
from kpagent.benchmarks.tracking import Tracking
from kpagent.benchmarks.video import Video
from kpagent.cli.terminal import console, progress_bar


@dataclass(frozen=True)
class Bench:
    """Measure, print a table and write benchmarks/results/NAME.json."""

    benchmark: Annotated[
        Annotated[Speed, tyro.conf.subcommand("speed")]
        | Annotated[KeypointDistance, tyro.conf.subcommand("keypoints")]
        | Annotated[Pairs, tyro.conf.subcommand("pairs")]
        | Annotated[Tracking, tyro.conf.subcommand("tracking")]
        | Annotated[Robustness, tyro.conf.subcommand("robustness")]
        | Annotated[Atari100k, tyro.conf.subcommand("atari100k")]
        | Annotated[Exploration, tyro.conf.subcommand("exploration")]
        | Annotated[Scaling, tyro.conf.subcommand("scaling")]
        | Annotated[Video, tyro.conf.subcommand("video")]
        | Annotated[RewardPrediction, tyro.conf.subcommand("rewards")]
        | Annotated[Recognition, tyro.conf.subcommand("recognition")]
        | Annotated[KeyframeDiscovery, tyro.conf.subcommand("keyframes")]
        | Annotated[Planning, tyro.conf.subcommand("planning")]
        | Annotated[Control, tyro.conf.subcommand("control")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run it and print what it found."""
        from kpagent.benchmarks.results import write
        from kpagent.drawing import require_writable

        require_writable(self.benchmark.out / "results.json", ".json")
        with progress_bar() as bar:
            bar.add_task(type(self.benchmark).__name__, total=None)
            result = self.benchmark.run(lambda line: bar.console.print(line))
        table = Table("figure", "value", "unit")
        for name, figure in result["figures"].items():
            table.add_row(name, f"{figure['value']:.4g}", figure["unit"])
        console.print(table)
        console.print(f"wrote {write(result, self.benchmark.out)}")
        return 0
