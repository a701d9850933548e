"""How far keypoints lie from the objects of a game, on frames of random play that they were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TARGET = 0.10
"""Mean distance, in coordinate units, that each object's keypoint must not exceed."""

GAMES = {"pong": "ALE/Pong-v5", "breakout": "ALE/Breakout-v5"}


@dataclass(frozen=True)
class KeypointDistance:
    """Mean distance from each object's keypoint to its true centre (emulator RAM)."""

    games: tuple[str, ...] = ("pong", "breakout")
    """Games with ground truth: pong, breakout."""
    weights: tuple[str, ...] = ()
    """Names or paths, one a game; the shipped weights of that name, if not given."""
    frames: int = 5_000
    """Frames a game."""
    seed: int = 20_000
    """Of environment and actions; the shipped weights were trained on play under seed 0."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure; returns the result."""
        from kpagent.benchmarks.results import Measurement, bootstrap_ci95
        from kpagent.errors import UsageError
        from kpagent.evaluation.assignment import assign
        from kpagent.perception.zoo import load

        for game in self.games:
            if game not in GAMES:
                raise UsageError(f"no ground truth for {game!r}; there is for {', '.join(GAMES)}")
        if self.frames < 1:
            raise UsageError(f"frames must be at least 1; got {self.frames}")
        weights = self.weights or self.games
        if len(weights) != len(self.games):
            raise UsageError(f"{len(self.games)} games need as many weights, not {len(weights)}")
        models = [load(name, self.device) for name in weights]
        command = f"kpagent bench keypoints --games {' '.join(self.games)} --frames {self.frames} --seed {self.seed}"
        measurement = Measurement("keypoints", command)
        for game, model in zip(self.games, models, strict=True):
            xy, objects = _play(game, model, self.frames, self.seed)
            try:
                found = assign(xy, np.stack(list(objects.values()), axis=1))
            except ValueError as error:
                raise UsageError(f"{game} in {self.frames} frames: {error}") from error
            for index, name in enumerate(objects):
                seen = found.per_frame[:, index]
                seen = seen[np.isfinite(seen)]
                path = f"{game}/transporter"
                measurement.add(f"{path}/distance/{name}", seen.mean(), "", ci95=bootstrap_ci95(seen))
                measurement.add(f"{path}/distance_p95/{name}", float(np.quantile(seen, 0.95)), "")
                measurement.add(f"{path}/frames/{name}", len(seen), "frames")
                say(f"{game} {name}: keypoint {found.keypoint[index]}, mean distance {seen.mean():.4f} (target {TARGET})")
        return measurement.result()


def _play(game: str, model: Any, count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Keypoints (T, K, 2) and the true centres (T, 2) of each object over `count` frames of random play."""
    from kpagent.envs.making import make_env
    from kpagent.envs.objects import ATARI_OBJECTS

    env = make_env(GAMES[game])
    rng = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    xy, rams, frames = [], [], []
    for step in range(count):
        frame, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))  # type: ignore[attr-defined]
        frames.append(frame)
        rams.append(env.unwrapped.ale.getRAM().copy())  # type: ignore[attr-defined]
        if len(frames) == 64 or step == count - 1:
            xy.append(model.encode(np.stack(frames), features=False).numpy().xy)
            frames.clear()
        if terminated or truncated:
            env.reset()
    env.close()
    return np.concatenate(xy), ATARI_OBJECTS[GAMES[game]](np.stack(rams))
