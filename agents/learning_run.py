"""A run of learning that can be interrupted, killed and taken up again: one folder, one agent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.perception_tuning import FRAMES, PERCEPTION, PerceptionTuning, TuningConfig, find_trainable
from kpagent.errors import UsageError
from kpagent.files import write_text
from kpagent.spending import Meter
from kpagent.training import describe

GAMES = "games.csv"
"""In the folder of a run: interactions so far and score of each whole game that ended in training."""
AGENT = "agent.safetensors"
"""In the folder of a run: the agent as it is when the run ends."""
CHECKPOINT = "checkpoint.safetensors"
"""The agent with its replay, as long as the run goes on."""


def learn(
    players: VecEnv,
    folder: Path,
    total_timesteps: int,
    *,
    resume: bool = False,
    checkpoint_every_s: float = 120.0,
    provenance: dict[str, Any] | None = None,
    on_step: Callable[[KeyQN], bool] | None = None,
    tuning: TuningConfig | None = None,
    on_tuning: Callable[[int, int], bool] | None = None,
    **arguments: Any,
) -> KeyQN:
    """Train KeyQN in a folder up to a number of interactions.

    The folder gets the agent, TensorBoard logs and the scores of training games, and while the run goes on a checkpoint,
    replay included, every `checkpoint_every_s` seconds. Games begin anew when a run is taken up. What the learning took, all
    goes together, is kept in the agent's `provenance` as `wall_s`, `cpu_s` and `peak_memory_mb`.

    Args:
        players: what to learn in.
        folder: of the run.
        total_timesteps: interactions altogether.
        resume: take up the run in the folder, if there is one.
        checkpoint_every_s: most seconds of work that a kill may cost.
        provenance: what the agent learned from, kept with it.
        on_step: is called after every step; False ends the run, which can be taken up again.
        tuning: let perception go on learning from the frames of the run; `kept_perception` is what it has come to. None
            leaves it as it is.
        on_tuning: is told the steps done of a tuning, and all of them; False ends the run, which can be taken up again.
        arguments: of `KeyQN`; those of a run that is taken up are its own.

    Returns:
        The agent, with fewer interactions than asked for where `on_step` ended the run.

    Raises:
        UsageError: the folder holds a run already and `resume` was not asked for, or one of another environment or another
            `tuning`; or the players see with nothing that can be tuned.
    """
    kept, finished = folder / CHECKPOINT, folder / AGENT
    if not resume and (kept.exists() or finished.exists()):
        raise UsageError(f"{folder} holds a run already; add --resume to take it up, or choose another --out")
    found = next((path for path in (kept, finished) if path.exists()), None)
    if tuning is not None:
        find_trainable(players)
        if tuning.warm_up:
            # However many copies step at once, nothing is learned from keypoints of untrained weights.
            arguments["learning_starts"] = tuning.warm_up + players.num_envs
    agent = KeyQN(env=players, **arguments) if found is None else KeyQN.load(found, env=players)
    settings = {} if tuning is None else {"tuning": describe(tuning)}
    if found is None:
        agent.provenance = (provenance or {}) | settings
    elif agent.provenance.get("tuning") != settings.get("tuning"):
        before = agent.provenance.get("tuning", "none")
        raise UsageError(f"the run in {folder} was begun with another tuning of perception ({before}): resume it as it was")
    left = total_timesteps - agent.num_timesteps
    if left <= 0:
        return agent
    _cut_games(folder / GAMES, agent.num_timesteps)
    agent.set_logger(Logger(str(folder), [TensorBoardOutputFormat(str(folder / "logs"))]))
    keeper = _Keeper(folder, checkpoint_every_s, on_step)
    callbacks: list[BaseCallback] = [keeper]
    tuner = None if tuning is None else PerceptionTuning(folder, tuning, keep=keeper.keep, on_progress=on_tuning)
    callbacks += [] if tuner is None else [tuner]
    try:
        with contextlib.nullcontext() if tuner is None else contextlib.closing(tuner):
            agent.learn(left, callbacks, reset_num_timesteps=False)
    finally:
        agent.logger.close()
        if agent.num_timesteps < total_timesteps:
            keeper.keep()
    if agent.num_timesteps >= total_timesteps:
        keeper.add_cost()
        agent.save(finished, exclude=["optimizer"])
        kept.unlink(missing_ok=True)
        (folder / FRAMES).unlink(missing_ok=True)
    return agent


def kept_perception(folder: Path) -> Path | None:
    """The weights to which the run in a folder has tuned its perception; None where there is no such run."""
    begun = (folder / CHECKPOINT).exists() or (folder / AGENT).exists()
    return folder / PERCEPTION if begun and (folder / PERCEPTION).exists() else None


def read_games(folder: Path) -> list[list[float]]:
    """[interactions so far, score] of each whole game that ended while the run in a folder was learning."""
    path = folder / GAMES
    if not path.exists():
        return []
    return [[int(at), float(score)] for at, score in (line.split(",") for line in path.read_text().splitlines()[1:])]


def recent_score(agent: KeyQN) -> float | None:
    """Mean score of the last games, None before the first has ended."""
    games = [game["r"] for game in agent.ep_info_buffer or ()]
    return float(np.mean(games[-10:])) if games else None


class _Keeper(BaseCallback):
    """Keeps checkpoints, scores and costs, and ends the run when it is told to."""

    model: KeyQN

    def __init__(self, folder: Path, every_s: float, on_step: Callable[[KeyQN], bool] | None) -> None:
        super().__init__()
        self.folder, self.every_s, self.goes_on = folder, every_s, on_step
        self.saved_at = time.monotonic()
        self.meter = Meter()

    def keep(self) -> None:
        """Write a checkpoint."""
        self.add_cost()
        self.model.save(self.folder / CHECKPOINT, include=["replay"])
        self.saved_at = time.monotonic()

    def add_cost(self) -> None:
        """Add what was spent since the last time to what the agent has cost."""
        about, spent = self.model.provenance, self.meter.read()
        about["wall_s"] = about.get("wall_s", 0.0) + spent["wall_s"]
        about["cpu_s"] = about.get("cpu_s", 0.0) + spent["cpu_s"]
        about["peak_memory_mb"] = max(about.get("peak_memory_mb", 0.0), spent["peak_memory_mb"])
        self.meter = Meter()

    def _on_rollout_start(self) -> None:
        # Between rollouts the replay and the counters agree.
        if time.monotonic() - self.saved_at >= self.every_s:
            self.keep()

    def _on_step(self) -> bool:
        ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        if ended:
            with (self.folder / GAMES).open("a", encoding="utf-8") as file:
                file.writelines(f"{self.num_timesteps},{score:g}\n" for score in ended)
        return self.goes_on is None or self.goes_on(self.model)


def _cut_games(path: Path, interactions: int) -> None:
    """Leave out the games that a run which is taken up will play again."""
    games = [game for game in read_games(path.parent) if game[0] <= interactions]
    write_text(path, "interactions,score\n" + "".join(f"{at},{score:g}\n" for at, score in games))
