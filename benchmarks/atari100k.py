"""Atari 100k: what is learned from 100,000 interactions (Transporter section 4.2.1, Figure 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kpagent.benchmarks.results import Measurement
    from kpagent.benchmarks.runs import Run

LABELS: Mapping[str, str] = {
    "keyqn": "KeyQN",
    "keyqn_finetune": "KeyQN, perception tuned",
    "keyqn_strict": "KeyQN, all in 100k",
    "keyqn_oracle": "KeyQN on true positions",
    "dqn_pixels": "DQN on pixels",
    "ppo_pixels": "PPO on pixels",
    "ppo_keypoints": "PPO on keypoints",
    "random": "Random",
}
"""What can be measured: KeyQN on keypoints (as shipped; tuned on the frames of the run; learned from these alone) and on the
true positions of objects, and its peers."""


@dataclass(frozen=True)
class Ablation:
    """KeyQN with one thing otherwise; arguments of `keyqn_runs.train_keyqn`."""

    label: str
    """What is otherwise."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `NetworkConfig`."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `KeyQN`."""
    features: bool = True
    """Whether to see features."""


ABLATIONS: Mapping[str, Ablation] = {
    "keyqn_no_features": Ablation("without features", features=False),
    "keyqn_no_motion": Ablation("without the move since the last observation", network={"motion_range": 0.0}),
    "keyqn_one_critic": Ablation("one critic", network={"critics": 1}),
    "keyqn_distribution": Ablation("HL-Gauss over 51 atoms in place of expected values", network={"atoms": 51}),
    "keyqn_three_steps": Ablation("three-step targets", changes={"n_steps": 3, "initial_n_steps": 3}),
    "keyqn_no_annealing": Ablation("the last discount from the start", changes={"anneal_updates": 0}),
    "keyqn_more_updates": Ablation("twice the updates", changes={"gradient_steps": 4}),
    "keyqn_resets": Ablation("a reset every 20,000 interactions", changes={"reset_interval": 20_000}),
    "keyqn_jitter": Ablation("noise of 0.01 on coordinates in learning", changes={"jitter": 0.01}),
}
METHODS = (*LABELS, *ABLATIONS)


@dataclass(frozen=True)
class Atari100k:
    """Train agents on 100,000 interactions of each game, and play whole games with them.

    Each run has a process of its own. Runs are kept in RUNS and are not repeated; one of KeyQN that was interrupted is
    taken up where it was. See docs/atari100k.md for the protocol.
    """

    games: tuple[str, ...] = ("breakout", "frostbite", "ms_pacman", "pong", "seaquest")
    """Atari games of the zoo."""
    methods: tuple[str, ...] = ("keyqn",)
    """keyqn, keyqn_finetune (perception goes on learning from the frames of the run), keyqn_strict (it sees no others),
    keyqn_oracle (true positions in place of keypoints), dqn_pixels, ppo_pixels, ppo_keypoints, random; and for ablations
    keyqn_no_features, keyqn_no_motion, keyqn_one_critic, keyqn_distribution, keyqn_three_steps, keyqn_no_annealing,
    keyqn_more_updates, keyqn_resets, keyqn_jitter."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs."""
    steps: int = 100_000
    """Interactions to learn from, the random ones of the warm-up included."""
    episodes: int = 100
    """Whole games of evaluation."""
    jobs: int = 1
    """Runs at a time."""
    threads: int | None = None
    """Of each run, for its networks; torch's own choice, if not given."""
    finished: bool = False
    """Measure the runs that are finished in RUNS, and start none."""
    runs: Path = Path("runs/atari100k")
    """Folder of the runs."""
    pictures: Path | None = None
    """Folder for bars and learning curves; none are drawn, if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Do what is missing, measure everything; returns the result."""
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.runs import run_all

        self._check()
        plan = {
            (game, method): [self._run(game, method, seed) for seed in self.seeds]
            for game in self.games
            for method in self.methods
        }
        if self.finished:
            plan = {key: done for key, runs in plan.items() if (done := [run for run in runs if run.done])}
        runs = [run for runs in plan.values() for run in runs]
        run_all(runs, jobs=self.jobs, threads=self.threads, say=say)
        measurement = Measurement("atari100k", self._command())
        found = {key: [run.result() for run in runs] for key, runs in plan.items()}
        for (game, method), results in found.items():
            _add(measurement, game, method, results)
        for method in self.methods:
            self._add_all(measurement, method, found)
        result = measurement.result()
        if self.pictures is not None:
            self._draw(self.pictures, found)
        return result

    def _check(self) -> None:
        from kpagent.benchmarks.games import find_game
        from kpagent.benchmarks.literature import GAMES
        from kpagent.errors import UsageError
        from kpagent.fields import require

        checks = {
            "games must be given, each once": bool(self.games) and len(set(self.games)) == len(self.games),
            "methods must be given, each once": bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "seeds must be different and at least 0": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=-1) >= 0,
            "steps must be at least 1": self.steps >= 1,
            "episodes must be at least 1": self.episodes >= 1,
            "jobs must be at least 1": self.jobs >= 1,
        }
        require(self, checks)
        for method in self.methods:
            if method not in METHODS:
                raise UsageError(f"no method {method!r}; there are {', '.join(METHODS)}")
        for name in self.games:
            if name not in GAMES:
                raise UsageError(f"{name} has no published scores to stand beside; there are {', '.join(GAMES)}")
            find_game(name)
        if self.pictures is not None:
            from kpagent.drawing import require_writable

            require_writable(self.pictures / "atari100k.png", ".png")

    def _run(self, game: str, method: str, seed: int) -> Run:
        from kpagent.benchmarks.games import find_game
        from kpagent.benchmarks.runs import Run
        from kpagent.envs.players import OBJECTS

        folder = self.runs / game / method / f"seed_{seed}"
        arguments: dict[str, Any] = {
            "env_id": find_game(game).env,
            "seed": seed,
            "interactions": self.steps,
            "episodes": self.episodes,
            "device": self.device,
        }
        if method.startswith("keyqn"):
            see = {"keyqn_oracle": OBJECTS, "keyqn_strict": None}.get(method, game)
            arguments |= {"see": see, "folder": str(folder)}
            if method in ABLATIONS:
                other = ABLATIONS[method]
                arguments |= {"features": other.features, "network": {**other.network}, "changes": {**other.changes}}
            if method == "keyqn_finetune":
                arguments |= {"finetune": True}
            if method == "keyqn_strict":
                about = find_game(game)
                arguments |= {"strict": True, "keypoints": about.keypoints, "spare": about.spare}
                arguments |= {"difference": about.difference}
            return Run("kpagent.benchmarks.keyqn_runs:train_keyqn", arguments, folder / "result.json")
        arguments |= {"method": method} | ({"weights": game} if method == "ppo_keypoints" else {})
        return Run("kpagent.benchmarks.peers:train_peer", arguments, folder / "result.json")

    def _command(self) -> str:
        parts = [f"kpagent bench atari100k --games {' '.join(self.games)} --methods {' '.join(self.methods)}"]
        parts.append(f"--seeds {' '.join(map(str, self.seeds))} --steps {self.steps} --episodes {self.episodes}")
        return " ".join(parts + (["--finished"] if self.finished else []))

    def _add_all(self, measurement: Measurement, method: str, found: Mapping[tuple[str, str], list[Any]]) -> None:
        """The interquartile mean over the five games, where each of them has every seed."""
        from kpagent.benchmarks.literature import GAMES, normalized
        from kpagent.evaluation.scores import interquartile_mean, stratified_bootstrap

        columns = [found.get((game, method), []) for game in self.games]
        if set(self.games) != set(GAMES) or any(len(column) != len(self.seeds) for column in columns):
            return
        table = np.array(
            [
                [normalized({game: _mean(result)})[game] for result in column]
                for game, column in zip(self.games, columns, strict=True)
            ]
        ).T
        interval = stratified_bootstrap(table) if len(self.seeds) > 1 else None
        measurement.add(f"all/{method}/iqm", interquartile_mean(table), "human-normalised", ci95=interval)

    def _draw(self, folder: Path, found: Mapping[tuple[str, str], list[Any]]) -> None:
        from kpagent.benchmarks.atari100k_figures import Bar, Curve, draw_bars, draw_curves
        from kpagent.benchmarks.literature import PUBLISHED, normalized
        from kpagent.evaluation.scores import mean_interval

        bars: dict[str, list[Bar]] = {}
        curves: dict[str, list[Curve]] = {}
        for (game, method), results in found.items():
            if method in ABLATIONS:
                continue
            scores = [normalized({game: _mean(result)})[game] for result in results]
            interval = mean_interval(scores) if len(scores) > 1 else None
            bars.setdefault(game, []).append(Bar(LABELS[method], float(np.mean(scores)), interval))
            if method != "random":
                games = [result["games"] for result in results]
                curves.setdefault(game, []).append(Curve.of_games(LABELS[method], games, self.steps))
        for game, row in bars.items():
            for published in PUBLISHED.values():
                if published.learns:
                    row.append(Bar(published.label, normalized({game: published.scores[game]})[game], published=True))
        draw_bars(folder / "atari100k.png", bars)
        draw_curves(folder / "atari100k_learning.png", curves)


def _add(measurement: Measurement, game: str, method: str, results: list[Any]) -> None:
    """The figures of one method on one game."""
    from kpagent.benchmarks.literature import PUBLISHED
    from kpagent.evaluation.scores import mean_interval

    scores = [_mean(result) for result in results]
    paper = PUBLISHED["keyqn_2019"].scores[game] if method == "keyqn" else None
    interval = mean_interval(scores) if len(scores) > 1 else None
    name = f"{game}/{method}"
    measurement.add(f"{name}/return", float(np.mean(scores)), "", per_seed=scores, ci95=interval, paper=paper)
    spread = [float(np.std(result["scores"])) for result in results]
    measurement.add(f"{name}/return_std", float(np.mean(spread)), "over games", per_seed=spread)
    for key, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_memory_mb", "MB"), ("interactions", "")):
        values = [float(result[key]) for result in results]
        measurement.add(f"{name}/{key}", float(np.mean(values)), unit, per_seed=values)
    seen = [result["perception"] for result in results if "perception" in result]
    for key in ("before", "within"):
        counts = [float(each[key]) for each in seen if each[key] is not None]
        if counts and len(counts) == len(results):
            unit = "interactions"
            measurement.add(f"{name}/perception_{key}", float(np.mean(counts)), unit, per_seed=counts)


def _mean(result: Mapping[str, Any]) -> float:
    return float(np.mean(result["scores"]))
