"""One run of KeyQN on Atari 100k, as `runs.run_all` calls it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

EPSILON = 0.01
"""Share of random actions in evaluation."""
COPIES = 16
"""Games at a time in evaluation."""


def train_keyqn(
    env_id: str,
    seed: int,
    see: str,
    folder: str,
    *,
    interactions: int = 100_000,
    episodes: int = 100,
    envs: int = 4,
    features: bool = True,
    device: str = "auto",
    network: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train KeyQN on one game and evaluate it; a run that was killed is taken up from its last checkpoint.

    Args:
        env_id: such as "ALE/Pong-v5".
        seed: of the network, the draws and the training games; evaluation games have others.
        see: keypoints, as `make_players` takes them.
        folder: of the run.
        interactions: to learn from, the random ones of the warm-up included.
        episodes: whole games of evaluation, with ε of 0.01.
        envs: games at a time in training.
        features: whether to see features besides coordinates.
        device: auto, cpu or cuda.
        network: fields of `NetworkConfig` that are to differ.
        changes: arguments of `KeyQN` that are to differ.

    Returns:
        As `peers.train_peer` does; `wall_s` and `cpu_s` over all goes of the run.
    """
    from kpagent.agents.evaluation import play_games
    from kpagent.agents.learning_run import learn, read_games
    from kpagent.agents.q_network import NetworkConfig
    from kpagent.benchmarks.spending import Meter
    from kpagent.envs.players import OBJECTS, make_players

    seen: dict[str, Any] = {"features": features and see != OBJECTS, "device": device}
    sizes = {"network": NetworkConfig(**(network or {}))}
    with contextlib.closing(make_players(env_id, envs, see, seed=seed, **seen)) as players:
        agent = learn(
            players,
            Path(folder),
            interactions,
            resume=True,
            provenance={"env": env_id, "see": see, "features": seen["features"], "seed": seed},
            seed=seed,
            device=device,
            policy_kwargs=sizes,
            **(changes or {}),
        )
    memory = Meter().read()["peak_memory_mb"]
    meter = Meter()
    with contextlib.closing(make_players(env_id, min(COPIES, episodes), see, seed=10_000 * (seed + 1), **seen)) as players:
        scores = play_games(agent, players, episodes, EPSILON)
    return {
        "scores": scores.tolist(),
        "interactions": agent.num_timesteps,
        "games": read_games(Path(folder)),
        "wall_s": round(agent.provenance["wall_s"], 1),
        "cpu_s": round(agent.provenance["cpu_s"], 1),
        "peak_memory_mb": memory,
        "evaluation_wall_s": meter.read()["wall_s"],
    }
