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
    see: str | None,
    folder: str,
    *,
    interactions: int = 100_000,
    episodes: int = 100,
    envs: int = 4,
    features: bool = True,
    device: str = "auto",
    network: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    finetune: bool = False,
    strict: bool = False,
    keypoints: int = 8,
    spare: int = 0,
    difference: bool = False,
) -> dict[str, Any]:
    """Train KeyQN on one game and evaluate it; a run that was killed is taken up from its last checkpoint.

    Args:
        env_id: such as "ALE/Pong-v5".
        seed: of the network, the draws and the training games; evaluation games have others.
        see: keypoints, as `make_players` takes them; None with `strict`.
        folder: of the run.
        interactions: to learn from, the random ones of the warm-up included.
        episodes: whole games of evaluation, with ε of 0.01.
        envs: games at a time in training.
        features: whether to see features besides coordinates.
        device: auto, cpu or cuda.
        network: fields of `NetworkConfig` that are to differ.
        changes: arguments of `KeyQN` that are to differ.
        finetune: let perception go on learning from the frames of the run.
        strict: the same from untrained keypoints, so that perception sees no frames but those of the run.
        keypoints: with `strict`, K.
        spare: with `strict`, keypoints to train besides at first.
        difference: with `strict`, as of `DetectorConfig`.

    Returns:
        As `peers.train_peer` does; `wall_s` and `cpu_s` over all goes of the run. Besides, `perception`: the interactions
        whose frames perception was trained on, `before` the run (None where the weights do not say) and `within`.
    """
    from kpagent.agents.evaluation import play_games
    from kpagent.agents.learning_run import kept_perception, learn, read_games
    from kpagent.agents.perception_tuning import (
        PERCEPTION,
        TuningConfig,
        fresh_perception,
        interactions_seen,
    )
    from kpagent.agents.q_network import NetworkConfig
    from kpagent.envs.players import OBJECTS, make_players
    from kpagent.perception.zoo import load
    from kpagent.spending import Meter

    tuning = TuningConfig.strict(spare=spare, seed=seed) if strict else TuningConfig(seed=seed) if finetune else None
    begin: Any = see
    if strict:
        begin = fresh_perception(env_id, keypoints, seed=seed, difference=difference)
    if tuning is not None:
        begin, see = kept_perception(Path(folder)) or begin, str(Path(folder) / PERCEPTION)
    assert see is not None, "only strict runs begin without weights"
    seen: dict[str, Any] = {"features": features and see != OBJECTS, "device": device}
    sizes = {"network": NetworkConfig(**(network or {}))}
    with contextlib.closing(make_players(env_id, envs, begin, seed=seed, **seen)) as players:
        agent = learn(
            players,
            Path(folder),
            interactions,
            resume=True,
            provenance={"env": env_id, "see": see, "features": seen["features"], "seed": seed},
            seed=seed,
            device=device,
            policy_kwargs=sizes,
            tuning=tuning,
            **(changes or {}),
        )
    meter = Meter()
    with contextlib.closing(make_players(env_id, min(COPIES, episodes), see, seed=10_000 * (seed + 1), **seen)) as players:
        scores = play_games(agent, players, episodes, EPSILON)
    before, within = (0, 0) if see == OBJECTS else interactions_seen(load(see, "cpu").provenance, own=tuning is not None)
    return {
        "scores": scores.tolist(),
        "interactions": agent.num_timesteps,
        "games": read_games(Path(folder)),
        "wall_s": round(agent.provenance["wall_s"], 1),
        "cpu_s": round(agent.provenance["cpu_s"], 1),
        "peak_memory_mb": agent.provenance["peak_memory_mb"],
        "evaluation_wall_s": meter.read()["wall_s"],
        "perception": {"before": before, "within": within},
    }
