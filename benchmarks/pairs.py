"""What diverse frame pairs cost and gain: interactions a second, search included, and coverage before and after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Pairs:
    """Collection of diverse frame pairs (Transporter Appendix B), and what it costs."""

    env: str = "ALE/Pong-v5"
    """Gymnasium id."""
    capacity: int = 20_000
    """Frame pairs kept."""
    interactions: int = 3_000_000
    """Budget."""
    trajectory_length: int = 100
    """Interactions of a trajectory at most."""
    save: Path | None = None
    """File to keep the pairs in."""
    seed: int = 0
    """Of play and choice."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.collect.pairs import PairsConfig, collect_pairs, gather
        from kpagent.drawing import require_writable
        from kpagent.envs.making import copies, make_vector_env
        from kpagent.spending import peak_memory_mb

        config = PairsConfig(
            capacity=self.capacity,
            interactions=self.interactions,
            trajectory_length=self.trajectory_length,
            num_envs=copies(self.env),
            seed=self.seed,
        )
        if self.save is not None:
            require_writable(self.save, ".h5")
        command = f"kpagent bench pairs --env {self.env} --capacity {self.capacity} --interactions {self.interactions}"
        if self.trajectory_length != 100:
            command += f" --trajectory-length {self.trajectory_length}"
        measurement = Measurement("pairs", command)
        cpu, wall = time.process_time(), time.monotonic()
        with contextlib.closing(make_vector_env(self.env, config.num_envs)) as env:
            pairs = gather(collect_pairs(env, config, env_id=self.env))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        spent = pairs.info["interactions"]
        measurement.add("pairs/interactions_per_s", spent / wall, "interactions/s")
        measurement.add("pairs/interactions_per_s_per_core", spent / cpu, "interactions/s of one core's time")
        measurement.add("pairs/coverage_filled", pairs.info["coverage_filled"], "RMS distance to the nearest pair")
        measurement.add("pairs/coverage", pairs.info["coverage"], "RMS distance to the nearest pair")
        measurement.add("pairs/coverage_gain", pairs.info["coverage"] / pairs.info["coverage_filled"], "")
        measurement.add("pairs/memory_stated_mb", config.memory_bytes() / 1e6, "MB")
        measurement.add("pairs/peak_memory_mb", peak_memory_mb(), "MB")
        say(f"{spent} interactions in {wall:.0f} s, {cpu:.0f} s of CPU time")
        if self.save is not None:
            pairs.save(self.save)
            say(f"wrote {self.save}")
        return measurement.result()
