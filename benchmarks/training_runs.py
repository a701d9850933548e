"""Frame pairs and trainings that benchmarks need: made once, kept on disk, taken up again where they were interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kpagent.benchmarks.games import Game
from kpagent.collect.pairs import FramePairs, PairsConfig, collect_pairs, gather
from kpagent.envs.making import copies, make_vector_env
from kpagent.errors import UsageError
from kpagent.files import write_json
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.pretraining import PretrainingConfig, pretrain
from kpagent.perception.zoo import load
from kpagent.training import pick_device

COST = "cost.json"
"""Beside the weights of each training: what it took."""


def pairs_once(
    path: Path, game: Game, say: Callable[[str], None], *, capacity: int | None = None, interactions: int | None = None
) -> FramePairs:
    """The frame pairs of a game from a file, or collected into it.

    Args:
        path: the file.
        game: says from which environment, and how many.
        say: is told before a collection.
        capacity: instead of the game's own.
        interactions: instead of the game's own.

    Raises:
        UsageError: the file is damaged, or holds other pairs than these.
    """
    config = PairsConfig(
        capacity=capacity or game.capacity,
        interactions=interactions or game.interactions,
        trajectory_length=game.trajectory_length,
        num_envs=copies(game.env),
        candidates=min(64, capacity or game.capacity),
    )
    if path.exists():
        pairs = FramePairs.load(path)
        wanted = {name: getattr(config, name) for name in ("capacity", "interactions", "trajectory_length")}
        kept = {key: pairs.info["config"].get(key) for key in wanted}
        if pairs.info.get("env") != game.env or kept != wanted:
            raise UsageError(
                f"{path} holds pairs of {pairs.info.get('env')} with {kept}, not of {game.env} with {wanted};"
                " choose another --runs"
            )
        return pairs
    say(f"{game.env}: collecting {config.capacity} frame pairs")
    with contextlib.closing(make_vector_env(game.env, config.num_envs)) as env:
        pairs = gather(collect_pairs(env, config, env_id=game.env))
    pairs.save(path)
    return pairs


def train_once(
    folder: Path,
    make: Callable[[], KeypointDetector],
    pairs: FramePairs,
    config: PretrainingConfig,
    say: Callable[[str], None],
    device: str = "auto",
) -> KeypointDetector:
    """The detector trained in a folder, trained now unless it is there.

    Args:
        folder: of the run.
        make: the detector to train, on the CPU.
        pairs: what to train on.
        config: how.
        say: is told how the training goes.
        device: as of `kpagent.load`.

    Raises:
        UsageError: the folder holds an unfinished run of other settings.
    """
    spent = cost(folder)
    if spent["steps"] < config.training.steps:
        about = {"env": pairs.info["env"], "pairs": dict(pairs.info)}
        run = pretrain(make().to(pick_device(device)), pairs, config, folder, provenance=about, resume=True)
        wall, cpu = time.monotonic(), time.process_time()
        try:
            with contextlib.closing(run):  # type: ignore[type-var]
                for report in run:
                    # Not all of them before the last thing is done, which is to drop spare keypoints.
                    spent["steps"] = min(report.step, config.training.steps - 1)
                    if report.evaluation is not None:
                        ratio = report.evaluation.loss / report.evaluation.copy_loss
                        say(f"{folder}: step {report.step}, held-out loss over copying {ratio:.3f}")
            spent["steps"] = config.training.steps
        finally:
            spent["wall_s"] += time.monotonic() - wall
            spent["cpu_s"] += time.process_time() - cpu
            write_json(folder / COST, spent)
    return load(folder / "best.safetensors", device)


def cost(folder: Path) -> dict[str, Any]:
    """Steps that the run in a folder has taken, and what they cost; what a kill interrupted is not in it."""
    path = folder / COST
    nothing = {"steps": 0, "wall_s": 0.0, "cpu_s": 0.0}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else nothing


def fast_config(steps: int, seed: int, **changes: Any) -> PretrainingConfig:
    """The `fast` preset with other steps and seed."""
    config = PretrainingConfig.fast(**changes)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps, seed=seed))
