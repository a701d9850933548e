"""Long-term tracking against ground truth, beside the published baselines (Transporter section 4.1, Figures 2, 4, 9-12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.games import Game
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.tracked_play import TrackedPlay
    from kpagent.collect.pairs import FramePairs

LENGTHS = (1, 10, 25, 50, 100, 200)
"""Frames of the trajectories that are compared, as in Figure 4."""
PUBLISHED = {"pong/transporter/precision@200": 1.0, "pong/transporter/recall@200": 1.0}
"""The figures that the paper's text states ("100% on pong"); its curves come without numbers."""


@dataclass(frozen=True)
class Tracking:
    """Train every method on the same frame pairs and measure how well its keypoints track the objects of each game.

    Trainings are kept in RUNS and are not repeated; an interrupted one is taken up where it was.
    """

    games: tuple[str, ...] = ("pong", "frostbite", "ms_pacman", "stack_4")
    """Games with ground truth: pong, frostbite, ms_pacman, stack_4, breakout, seaquest, montezuma_revenge."""
    methods: tuple[str, ...] = ("transporter", "jakab", "zhang", "pixels")
    """transporter, jakab, zhang, pixels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the trainings; the frame pairs are the same for all."""
    steps: int = 2_000
    """Optimiser steps of each training."""
    capacity: int | None = None
    """Frame pairs a game; the game's own, if not given."""
    interactions: int | None = None
    """Interactions spent on them; the game's own, if not given."""
    episodes: int = 20
    """Episodes of random play measured on, none of which was trained on."""
    length: int = 200
    """Frames of each, and the longest trajectory compared."""
    seed: int = 20_000
    """Of these episodes."""
    weights: tuple[str, ...] = ()
    """Measure these weights, one a game, names or paths, and train nothing."""
    trained: bool = False
    """Measure the trainings that are finished in RUNS, and train nothing."""
    runs: Path = Path("runs/tracking")
    """Folder of frame pairs and trainings."""
    pictures: Path | None = None
    """Folder for curves and pictures; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Train what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.games import find_game
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.tracked_play import record_play
        from kpagent.benchmarks.training_runs import cost

        self._check()
        given = [self._given(*named) for named in zip(self.weights, self.games, strict=False)]
        for name in self.games:
            # An episode shorter than what is asked for is to be known before anything is trained.
            next(record_play(find_game(name).env, 1, self.length, self.seed))
        lengths = tuple(length for length in LENGTHS if length <= self.length)
        measurement = Measurement("tracking", self._command())
        for index, name in enumerate(self.games):
            game = find_game(name)
            detectors = given[index] if given else self._trained(name, game, say)
            play = list(record_play(game.env, self.episodes, self.length, self.seed))
            found = {
                method: [Track.of(model, play, game.epsilon, lengths) for model in models]
                for method, models in detectors.items()
            }
            for method, tracks in found.items():
                add_tracks(measurement, f"{name}/{method}", tracks)
                if not self.weights:
                    cpu = [cost(self._folder(name, method, seed))["cpu_s"] for seed in self._seeds(name, method)]
                    measurement.add(f"{name}/{method}/train_cpu_s", float(np.mean(cpu)), "s of one core", per_seed=cpu)
                last = tracks[0].lengths[-1]
                precision = " ".join(f"{track.precision[-1]:.3f}" for track in tracks)
                recall = " ".join(f"{track.recall[-1]:.3f}" for track in tracks)
                say(f"{name} {method}: precision@{last} {precision}, recall@{last} {recall}")
            if self.pictures is not None:
                from kpagent.benchmarks.tracking_pictures import draw_methods, draw_track

                first = {method: models[0] for method, models in detectors.items()}
                draw_methods(self.pictures / f"{name}_methods.png", play, first)
                draw_track(self.pictures / f"{name}_track.png", play, next(iter(first.values())))
        result = measurement.result()
        if self.pictures is not None:
            from kpagent.benchmarks.tracking_pictures import draw_curves

            draw_curves(self.pictures / "tracking.png", result, lengths)
        return result

    def _check(self) -> None:
        from kpagent.benchmarks.games import require_games
        from kpagent.errors import UsageError
        from kpagent.fields import require
        from kpagent.perception.methods import METHODS

        require_games(self.games)
        for name in self.methods:
            if name not in METHODS:
                raise UsageError(f"no method {name!r}; there are {', '.join(METHODS)}")
        checks = {
            "methods and seeds must each be given at least once": bool(self.methods and self.seeds),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=0) >= 0,
            "episodes must be at least 1": self.episodes >= 1,
            "length must be at least 1": self.length >= 1,
            "weights must be one a game": len(self.weights) in (0, len(self.games)),
        }
        require(self, checks)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "tracking.png", ".png")

    def _command(self) -> str:
        parts = [f"kpagent bench tracking --games {' '.join(self.games)}"]
        if self.weights:
            parts.append(f"--weights {' '.join(self.weights)}")
        else:
            parts.append(f"--methods {' '.join(self.methods)} --seeds {' '.join(map(str, self.seeds))} --steps {self.steps}")
        if self.trained:
            parts.append("--trained")
        return f"{' '.join(parts)} --episodes {self.episodes} --length {self.length} --seed {self.seed}"

    def _given(self, weights: str, name: str) -> dict[str, list[Any]]:
        """The weights given for a game."""
        from kpagent.benchmarks.games import find_game
        from kpagent.errors import UsageError
        from kpagent.perception.zoo import load

        model, game = load(weights, self.device), find_game(name)
        env = model.provenance.get("env")
        if env not in (None, game.env, *game.kin):
            raise UsageError(f"{weights} holds keypoints of {env}, not of {game.env}, which {name} is")
        return {model.kind: [model]}

    def _trained(self, name: str, game: Game, say: Callable[[str], None]) -> dict[str, list[Any]]:
        """The detectors of each method, one a seed, trained unless they are there."""
        from kpagent.benchmarks.training_runs import pairs_once
        from kpagent.errors import UsageError
        from kpagent.perception.zoo import load

        if self.trained:
            found = {
                method: [
                    load(self._folder(name, method, seed) / "best.safetensors", self.device)
                    for seed in self._seeds(name, method)
                ]
                for method in self.methods
            }
            if not any(found.values()):
                raise UsageError(
                    f"no finished training of {name} in {self.runs}; leave out --trained, or name another --runs"
                )
            return {method: models for method, models in found.items() if models}
        sizes = {"capacity": self.capacity, "interactions": self.interactions}
        pairs = pairs_once(self.runs / name / "pairs.h5", game, say, **sizes)
        detectors: dict[str, list[Any]] = {}
        for seed in self.seeds:
            for method in self.methods:
                detectors.setdefault(method, []).append(self._train(name, game, method, seed, pairs, say))
        return detectors

    def _train(self, name: str, game: Game, method: str, seed: int, pairs: FramePairs, say: Callable[[str], None]) -> Any:
        from kpagent.benchmarks.training_runs import fast_config, train_once
        from kpagent.perception.methods import new_detector

        # Zhang's method paints single frames with all its landmarks: none can be spared.
        spare = 0 if method == "zhang" else game.spare
        return train_once(
            self._folder(name, method, seed),
            lambda: new_detector(method, game.keypoints + spare, seed=seed, difference=game.difference),
            pairs,
            fast_config(self.steps, seed, spare=spare, mix=game.mix),
            say,
            self.device,
        )

    def _seeds(self, name: str, method: str) -> list[int]:
        """Those whose training is finished."""
        from kpagent.benchmarks.training_runs import cost

        return [seed for seed in self.seeds if cost(self._folder(name, method, seed))["steps"] == self.steps]

    def _folder(self, name: str, method: str, seed: int) -> Path:
        return self.runs / name / method / f"seed_{seed}"


@dataclass(frozen=True)
class Track:
    """How one detector tracks the objects of a game."""

    lengths: tuple[int, ...]
    """Frames of the trajectories compared."""
    precision: tuple[float, ...]
    """At each length."""
    recall: tuple[float, ...]
    """At each length."""
    tracked_fraction: float
    """Of the object frames, those with a keypoint of their own within ε."""
    switches_per_1000: float
    """Identity switches in 1,000 object frames."""
    idf1: float
    """The identity score."""
    distance: float
    """Mean distance of the objects tracked."""

    @classmethod
    def of(cls, model: Any, play: Sequence[TrackedPlay], epsilon: float, lengths: Sequence[int]) -> Track:
        """Measure a perception model on recorded play."""
        from kpagent.evaluation.tracking import FrameMatches, TrajectoryMatches, follow, track

        windows = dict.fromkeys(lengths, TrajectoryMatches())
        frames = FrameMatches()
        for stretch in play:
            xy = encode(model, stretch.frames)
            for length, matches in track(xy, stretch.objects, epsilon, lengths).items():
                windows[length] += matches
            frames += follow(xy, stretch.objects, epsilon)
        return cls(
            tuple(lengths),
            tuple(windows[length].precision for length in lengths),
            tuple(windows[length].recall for length in lengths),
            frames.tracked_fraction,
            frames.switches_per_1000,
            frames.idf1,
            frames.mean_distance,
        )

    def figures(self) -> Mapping[str, tuple[float, str]]:
        """Every figure with its unit, by the last part of its name."""
        named = {f"precision@{length}": (value, "") for length, value in zip(self.lengths, self.precision, strict=True)}
        named |= {f"recall@{length}": (value, "") for length, value in zip(self.lengths, self.recall, strict=True)}
        return named | {
            "tracked_fraction": (self.tracked_fraction, ""),
            "switches": (self.switches_per_1000, "per 1,000 object frames"),
            "idf1": (self.idf1, ""),
            "distance": (self.distance, ""),
        }


def encode(model: Any, frames: np.ndarray) -> np.ndarray:
    """Keypoints (T, K, 2) of frames (T, H, W, 3), 64 at a time."""
    parts = [model.encode(frames[i : i + 64], features=False).numpy().xy for i in range(0, len(frames), 64)]
    return np.concatenate(parts)


def add_tracks(measurement: Measurement, path: str, tracks: Sequence[Track]) -> None:
    """Add every figure of some tracks, one a seed, under a path such as pong/transporter; those that are NaN stay out."""
    for figure, (_, unit) in tracks[0].figures().items():
        per_seed = [track.figures()[figure][0] for track in tracks]
        if np.isfinite(per_seed).all():
            name = f"{path}/{figure}"
            measurement.add(name, float(np.mean(per_seed)), unit, per_seed=per_seed, paper=PUBLISHED.get(name))
