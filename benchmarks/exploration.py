"""Exploration without rewards: random keypoint options against random actions (Transporter section 4.2.2, Figure 7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run

EXPLORED = ("montezuma_revenge", "ms_pacman", "seaquest")
"""The games of Figure 7."""
HAS_ROOMS = "montezuma_revenge"
"""And keys."""
LABELS: Mapping[str, str] = {"options": "keypoint options", "random": "random actions"}
"""What is compared."""
PERCENTILES = (5, 25, 50, 75, 95)
"""Of the return of an episode."""
_SETTINGS = ("keypoints", "warm_up", "warm_up_steps", "updates", "keypoint_steps")


@dataclass(frozen=True)
class Exploration:
    """Learn keypoint options without rewards, then play random ones, and random actions, for whole games.

    Each run has a process of its own. Runs are kept in RUNS and are not repeated; one that was interrupted is taken up
    where it was.
    """

    games: tuple[str, ...] = EXPLORED
    """montezuma_revenge, ms_pacman, seaquest."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs."""
    frames: int = 10_000_000
    """To learn from, four an interaction, those of the warm-up included."""
    episodes: int = 100
    """Whole games with options, and as many with random actions."""
    longest: int = 5_000
    """Interactions after which a game is cut off."""
    keypoints: int = 8
    """K, as of `kpagent explore`."""
    warm_up: int = 20_000
    """Interactions of random play at the beginning, as of `kpagent explore`."""
    warm_up_steps: int = 2_000
    """Steps of the keypoints at the end of the warm-up."""
    updates: int = 1
    """Of the options' values after every 20 interactions of the copies."""
    keypoint_steps: int = 1
    """Of the keypoints after every 20 interactions of the copies."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/exploration")
    """Folder of the runs."""
    pictures: Path | None = None
    """Folder for returns and heatmaps; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all
        from kpagent.errors import UsageError

        self._check()
        plan = {game: [self.plan(game, seed) for seed in self.seeds] for game in self.games}
        if self.finished:
            plan = {game: done for game, runs in plan.items() if (done := [run for run in runs if run.done])}
            if not plan:
                raise UsageError(f"no run is finished in {self.runs}; leave out --finished to do them")
        run_all([run for runs in plan.values() for run in runs], jobs=self.jobs, threads=self.threads, say=say)
        measurement = Measurement("exploration", self._command())
        found = {game: [run.result() for run in runs] for game, runs in plan.items()}
        for game, results in found.items():
            add_figures(measurement, game, results)
        result = measurement.result()
        if self.pictures is not None:
            self._draw(self.pictures, found)
        return result

    def plan(self, game: str, seed: int) -> Run:
        """The run of one seed of one game."""
        from kpagent.benchmarks.games import find_game
        from kpagent.benchmarks.runs import Run

        folder = self.runs / game / f"seed_{seed}"
        arguments = {
            "env_id": find_game(game).env,
            "seed": seed,
            "folder": str(folder),
            "frames": self.frames,
            "episodes": self.episodes,
            "longest": self.longest,
            "epsilon": find_game(game).epsilon,
            "device": self.device,
            "settings": self._settings(game),
        }
        return Run("kpagent.benchmarks.exploration_runs:explore_game", arguments, folder / "result.json")

    def _settings(self, game: str) -> dict[str, Any]:
        from kpagent.benchmarks.games import find_game

        chosen = {name: getattr(self, name) for name in _SETTINGS if name != "keypoints"}
        return chosen | {"num_keypoints": self.keypoints, "difference": find_game(game).difference}

    def _check(self) -> None:
        from kpagent.benchmarks.exploration_runs import make_config
        from kpagent.envs.atari import FRAME_SKIP
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "games must be given, each once": bool(self.games) and len(set(self.games)) == len(self.games),
            f"games must be among {', '.join(EXPLORED)}": set(self.games) <= set(EXPLORED),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            f"frames must be more than the {FRAME_SKIP * self.warm_up} of the warm-up": self.frames
            > FRAME_SKIP * self.warm_up,
            "episodes must be at least 1": self.episodes >= 1,
            "longest must be at least 1": self.longest >= 1,
            "keypoints must be at least 1": self.keypoints >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        for game in self.games:
            make_config(self.seeds[0], self.frames, self._settings(game))
        pick_device(self.device)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "exploration.png", ".png")

    def _command(self) -> str:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        parts = [f"kpagent bench exploration --games {' '.join(self.games)} --seeds {' '.join(map(str, self.seeds))}"]
        parts.append(f"--frames {self.frames} --episodes {self.episodes} --longest {self.longest}")
        other = [name for name in _SETTINGS if getattr(self, name) != default[name]]
        parts += [f"--{name.replace('_', '-')} {getattr(self, name)}" for name in other]
        return " ".join(parts + (["--finished"] if self.finished else []))

    def _draw(self, folder: Path, found: Mapping[str, list[Any]]) -> None:
        from kpagent.agents.exploration_pictures import draw_places
        from kpagent.benchmarks.exploration_figures import draw_returns
        from kpagent.benchmarks.games import find_game
        from kpagent.envs.making import make_env

        scores = {
            game: {label: [result[method]["scores"] for result in results] for method, label in LABELS.items()}
            for game, results in found.items()
        }
        draw_returns(folder / "exploration.png", scores)
        for game, results in found.items():
            env = make_env(find_game(game).env)
            screen, _ = env.reset(seed=0)
            env.close()
            places = {
                label: np.sum([result[method]["places"] for result in results], axis=0) for method, label in LABELS.items()
            }
            draw_places(folder / f"exploration_{game}.png", screen, places)


def add_figures(measurement: Measurement, game: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Add the figures of one game.

    Args:
        measurement: is added to.
        game: its name.
        results: one for each seed, as `explore_game` returns them.
    """
    from kpagent.evaluation.scores import mean_interval

    def add(name: str, values: list[float], unit: str = "") -> None:
        interval = mean_interval(values) if len(values) > 1 else None
        measurement.add(f"{game}/{name}", float(np.mean(values)), unit, per_seed=values, ci95=interval)

    for method in LABELS:
        played = [result[method] for result in results]
        add(f"{method}/return", _means(played, "scores"))
        add(f"{method}/return_std", [float(np.std(each["scores"])) for each in played], "over episodes")
        for percentile in PERCENTILES:
            add(f"{method}/return_p{percentile}", [float(np.percentile(each["scores"], percentile)) for each in played])
        add(f"{method}/length", _means(played, "interactions"), "interactions")
        add(f"{method}/cut_rate", _means(played, "cut"), "of episodes")
        add(f"{method}/cells", [float(each["cells"]) for each in played])
        if game == HAS_ROOMS:
            add(f"{method}/key_rate", _means(played, "keys"), "of episodes")
            add(f"{method}/first_room_cells", [float(each["first_room"]) for each in played])
            add(f"{method}/rooms", [float(each["rooms"]) for each in played])
    for ratio, figure in (("ratio", "return"), ("cells_ratio", "cells"), ("first_room_cells_ratio", "first_room_cells")):
        values = [measurement.figures.get(f"{game}/{method}/{figure}", {"value": 0.0})["value"] for method in LABELS]
        # Against a random player who scores nothing there is no ratio.
        if values[1] > 0:
            measurement.add(f"{game}/{ratio}", values[0] / values[1], "")
    add("compared", [float(result["compared"]) for result in results], "interactions")
    for name, key in (("avatar_share", "half_epsilon"), ("avatar_share_epsilon", "epsilon")):
        if all(result["avatar"][key] is not None for result in results):
            add(name, [result["avatar"][key] for result in results], "of frames")
    add("options/interactions", [float(result["interactions"]) for result in results])
    if all(result["spent"] is not None for result in results):
        for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB")):
            add(f"options/{key}", [float(result["spent"][key]) for result in results], unit)
        rates = [result["interactions"] / result["spent"]["wall_s"] for result in results]
        add("options/interactions_per_s", rates, "1/s")


def _means(played: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(np.mean(each[key])) for each in played]
