"""Keypoints where the paper names its limits: a background that moves, and screens that random play does not reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.games import Game
    from kpagent.benchmarks.tracked_play import TrackedPlay

CASES = {
    "pong_sliding": ("pong", ("shipped", "continued", "aligned", "fresh")),
    "breakout_half_wall": ("breakout", ("shipped", "continued")),
    "montezuma_second_room": ("montezuma_revenge", ("shipped", "continued")),
}
"""The game whose shipped weights a case begins with, and what is measured: these weights as they are; pretraining continued
on frames of the case; the same with what slides in the source moved as the background moves (`align`); and that from the
start, with the game's spare keypoints."""


@dataclass(frozen=True)
class Robustness:
    """Track objects over a moving background and on later screens, before and after pretraining goes on there."""

    cases: tuple[str, ...] = tuple(CASES)
    """pong_sliding, breakout_half_wall, montezuma_second_room."""
    seeds: tuple[int, ...] = (0,)
    """Of the continued pretraining."""
    steps: int = 2_000
    """Its optimiser steps."""
    capacity: int | None = None
    """Frame pairs of a case; 3,000, if not given."""
    interactions: int | None = None
    """Interactions spent on them; 300,000, if not given."""
    episodes: int = 20
    """Episodes of random play measured on."""
    length: int = 100
    """Frames of each, and of the trajectories compared; from half a wall on, random play of Breakout lasts 113 to 174."""
    seed: int = 20_000
    """Of these episodes."""
    runs: Path = Path("runs/robustness")
    """Folder of frame pairs and trainings, which are not repeated."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Train what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.games import find_game
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.tracked_play import record_play

        self._check()
        command = f"kpagent bench robustness --cases {' '.join(self.cases)} --seeds {' '.join(map(str, self.seeds))}"
        protocol = f"--episodes {self.episodes} --length {self.length} --seed {self.seed}"
        measurement = Measurement("robustness", f"{command} --steps {self.steps} {protocol}")
        for case in self.cases:
            origin, variants = CASES[case]
            new, old = find_game(case), find_game(origin)
            play = {game: list(record_play(game.env, self.episodes, self.length, self.seed)) for game in (new, old)}
            for variant in variants:
                models = self._models(case, origin, variant, new, say)
                recall = self._measure(measurement, f"{case}/{variant}", models, play[new], new)
                say(f"{case} {variant}: recall@{self.length} {recall:.3f}")
                self._measure(measurement, f"{case}/{variant}/{origin}", models, play[old], old)
        return measurement.result()

    def _check(self) -> None:
        from kpagent.errors import UsageError
        from kpagent.fields import require

        for case in self.cases:
            if case not in CASES:
                raise UsageError(f"no case {case!r}; there are {', '.join(CASES)}")
        checks = {
            "cases and seeds must each be given at least once": bool(self.cases and self.seeds),
            "episodes must be at least 1": self.episodes >= 1,
            "length must be at least 1": self.length >= 1,
        }
        require(self, checks)

    def _models(self, case: str, origin: str, variant: str, game: Game, say: Callable[[str], None]) -> list[Any]:
        """One model a seed; the shipped weights have but one."""
        from functools import partial

        from kpagent.benchmarks.training_runs import fast_config, pairs_once, train_once
        from kpagent.perception.methods import load_for_training, new_detector
        from kpagent.perception.zoo import find, load

        if variant == "shipped":
            return [load(origin, self.device)]
        folder = self.runs / case
        sizes = {"capacity": self.capacity, "interactions": self.interactions}
        pairs = pairs_once(folder / "pairs.h5", game, say, **sizes)
        spare = game.spare if variant == "fresh" else 0

        def make(seed: int) -> Any:
            if variant == "fresh":
                return new_detector("transporter", game.keypoints + spare, seed=seed, align=True)
            return load_for_training(find(origin), seed, **({"align": True} if variant == "aligned" else {}))

        return [
            train_once(
                folder / variant / f"seed_{seed}",
                partial(make, seed),
                pairs,
                fast_config(self.steps, seed, spare=spare),
                say,
                self.device,
            )
            for seed in self.seeds
        ]

    def _measure(self, measurement: Any, path: str, models: Sequence[Any], play: Sequence[TrackedPlay], game: Game) -> float:
        """Add the figures of some models on one game's play; returns the mean recall."""
        from kpagent.benchmarks.tracking import Track, add_tracks

        tracks = [Track.of(model, play, game.epsilon, (self.length,)) for model in models]
        add_tracks(measurement, path, tracks)
        return float(np.mean([track.recall[0] for track in tracks]))
