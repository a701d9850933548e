"""One run of the exploration benchmark, as `runs.run_all` calls it: learn options, then play with them and at random."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpagent.agents.exploration import ExplorationConfig
    from kpagent.agents.option_evaluation import Episodes
    from kpagent.benchmarks.exploration_visits import Visits

COPIES = 16
"""Games at a time in evaluation."""
SPENT = "spent.json"
"""In the folder of a run: what its training has cost, over all goes."""
KEEP_EVERY_S = 60.0
"""Between two looks at that, and two lines in the log."""


def explore_game(
    env_id: str,
    seed: int,
    folder: str,
    *,
    frames: int,
    episodes: int,
    longest: int,
    epsilon: float,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Learn options of one game without rewards, and play whole games with them and with random actions.

    A run that was killed is taken up from its last checkpoint; its evaluation is done anew.

    Args:
        env_id: an Atari game with a player in its ground truth.
        seed: of all that is drawn.
        folder: of the run.
        frames: of the emulator, to learn from; the random play of the warm-up included.
        episodes: whole games with options, and as many with random actions.
        longest: interactions after which a game is cut off.
        epsilon: ε of the tracking metric for this game.
        device: auto, cpu or cuda.
        settings: fields of `ExplorationConfig` that are to differ; `learning`, `keypoints` and `network` by their fields.

    Returns:
        `interactions` learned from; `spent`, `wall_s`, `cpu_s` and `peak_memory_mb` of learning (None where another program
        did it); `compared`, the interactions after which the two are compared; `options` and `random`, each as `summary`
        says; `avatar`, the share of frames in which the most controllable keypoint was within `half_epsilon` and within
        `epsilon` of the player; `evaluation_wall_s`.
    """
    from kpagent.agents.exploration import AGENT, PERCEPTION
    from kpagent.agents.option_agent import OptionAgent
    from kpagent.agents.option_evaluation import play_options, play_random
    from kpagent.benchmarks.exploration_visits import VisitRecorder
    from kpagent.envs.avatar import make_avatar_players
    from kpagent.envs.vec_env import LARGEST_SEED
    from kpagent.perception.methods import load_detector
    from kpagent.spending import Meter
    from kpagent.training import pick_device

    spent = _learn(env_id, make_config(seed, frames, settings), Path(folder), device)
    meter = Meter()
    agent = OptionAgent.load(Path(folder) / AGENT, device)
    perception = load_detector(Path(folder) / PERCEPTION, pick_device(device))
    methods = {
        "options": (partial(play_options, agent, seed=(seed, 2)), VisitRecorder(perception)),
        "random": (partial(play_random, seed=(seed, 3)), VisitRecorder()),
    }
    played, visits = {}, {}
    for name, (play, recorder) in methods.items():
        others = 10_000 * (seed + 1) % (LARGEST_SEED - COPIES)
        size = agent.network.config.image_size
        with contextlib.closing(make_avatar_players(env_id, min(COPIES, episodes), size, seed=others)) as players:
            played[name] = play(players, episodes, longest=longest, on_step=recorder.note)
        visits[name] = recorder.visits()
    compared = min(map(len, visits.values()))
    return {
        "interactions": agent.provenance["interactions"],
        "spent": spent,
        "compared": compared,
        **{name: summary(played[name], visits[name], compared) for name in methods},
        "avatar": {
            "half_epsilon": visits["options"].share_on_avatar(epsilon / 2),
            "epsilon": visits["options"].share_on_avatar(epsilon),
        },
        "evaluation_wall_s": meter.read()["wall_s"],
    }


def make_config(seed: int, frames: int, settings: Mapping[str, Any] | None = None) -> ExplorationConfig:
    """How options are learned in a run; arguments as of `explore_game`.

    Raises:
        UsageError: settings out of range.
    """
    from kpagent.agents.exploration import ExplorationConfig
    from kpagent.agents.option_learner import OptionLearningConfig
    from kpagent.agents.option_network import OptionNetworkConfig
    from kpagent.envs.atari import FRAME_SKIP
    from kpagent.perception.online import OnlineConfig

    kinds: dict[str, Any] = {"learning": OptionLearningConfig, "keypoints": OnlineConfig, "network": OptionNetworkConfig}
    fields = {name: kinds[name](**value) if name in kinds else value for name, value in (settings or {}).items()}
    return ExplorationConfig(interactions=-(-frames // FRAME_SKIP), seed=seed, **fields)


def summary(played: Episodes, visits: Visits, compared: int) -> dict[str, Any]:
    """What is kept of the games of one kind of play.

    Args:
        played: the games.
        visits: their interactions.
        compared: interactions, the first of all, that places are counted in: the more are played, the more are seen.

    Returns:
        For each game its `scores`, its `interactions`, whether it was `cut` off and whether Montezuma's first key was
        taken (`keys`); the number of distinct avatar `cells`, of those in the `first_room`, and of `rooms`; and `places`,
        interactions in each cell of the first room.
    """
    first = visits.first(compared)
    cells = first.cells()
    return {
        "scores": played.scores.tolist(),
        "interactions": played.interactions.tolist(),
        "cut": played.cut.tolist(),
        "keys": visits.keys(len(played.scores)).tolist(),
        "cells": len(cells),
        "first_room": int((cells[:, 0] == first.first_room).sum()),
        "rooms": len(set(first.room.tolist())),
        "places": first.places().tolist(),
    }


def _learn(env_id: str, config: ExplorationConfig, folder: Path, device: str) -> dict[str, float] | None:
    """Begin the run in the folder, take it up, or find it finished; returns what it has cost."""
    from kpagent.agents.crews import count_actions, make_crew
    from kpagent.agents.exploration import explore
    from kpagent.agents.exploration_log import ExplorationLog
    from kpagent.envs.atari import FRAME_SKIP
    from kpagent.files import write_json
    from kpagent.spending import Meter

    before, meter = _spent(folder), Meter()
    log = ExplorationLog(folder / "logs", FRAME_SKIP, config.commitment)
    crew = make_crew(env_id, config)
    turns = explore(env_id, count_actions(env_id, config), crew, config, folder, resume=True, device=device)
    kept_at, turn = time.monotonic(), None

    def keep() -> None:
        write_json(folder / SPENT, _sum(before, meter.read()))

    with contextlib.closing(crew), contextlib.closing(log):
        try:
            for turn in turns:
                log.note(turn)
                if time.monotonic() - kept_at > KEEP_EVERY_S:
                    print(f"{turn.interactions * FRAME_SKIP} frames: {log.line()}", flush=True)
                    keep()
                    kept_at = time.monotonic()
        finally:
            turns.close()  # type: ignore[attr-defined]
            if turn is not None:
                keep()
    return _spent(folder)


def _spent(folder: Path) -> dict[str, float] | None:
    try:
        found: dict[str, float] = json.loads((folder / SPENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _sum(before: Mapping[str, float] | None, now: Mapping[str, float]) -> dict[str, float]:
    if before is None:
        return dict(now)
    totals = {name: round(before[name] + now[name], 3) for name in ("wall_s", "cpu_s")}
    return totals | {"peak_memory_mb": max(before["peak_memory_mb"], now["peak_memory_mb"])}
