"""Who explores: one actor in this process, or many through Ray."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from kpagent.agents.exploration import Crew, ExplorationConfig, new_perception
from kpagent.agents.option_actor import OptionActor
from kpagent.agents.option_network import OptionNetwork
from kpagent.agents.solo_crew import SoloCrew
from kpagent.envs.frame_players import make_frame_players
from kpagent.envs.vec_env import LARGEST_SEED
from kpagent.errors import UsageError


def make_crew(env_id: str, config: ExplorationConfig, actors: int = 0, shards: int = 1, address: str | None = None) -> Crew:
    """A crew that explores an environment; whoever asked for it closes it.

    Args:
        env_id: as for `make_frame_players`.
        config: how.
        actors: processes that play through Ray; with 0 one actor plays in this process, without Ray, and one seed gives
            one result.
        shards: processes that keep what they bring; none without Ray.
        address: of a Ray cluster to join, such as "auto"; without, Ray is started on this machine.

    Raises:
        UsageError: no such environment or none with frames and numbered actions, or Ray cannot do it.
    """
    if actors == 0:
        return SoloCrew(make_actor(env_id, config, (config.seed, 0)), config)
    if actors < 0:
        raise UsageError(f"actors must be at least 0; got {actors}")
    # Mistakes show here, before anything is started.
    count_actions(env_id, config)
    from kpagent.agents.distributed_crew import RayCrew

    # Each has one CPU; emulators that took more would take it from the others.
    return RayCrew(partial(make_actor, env_id, config, threads=1), config, actors, shards, address)


def make_actor(env_id: str, config: ExplorationConfig, seed: Sequence[int], threads: int = 0) -> OptionActor:
    """An actor with copies of an environment of its own, all drawn from one seed; `threads` as of `make_frame_players`.

    Raises:
        UsageError: as `make_frame_players`.
    """
    of_players = int(np.random.SeedSequence(tuple(seed)).generate_state(1)[0]) % (LARGEST_SEED - config.envs)
    size = config.network.image_size
    players = make_frame_players(env_id, config.envs, size, seed=of_players, threads=threads)
    # Its parameters are replaced before it plays; that they are drawn must not change what others draw.
    with torch.random.fork_rng([]):
        network = OptionNetwork(config.num_keypoints, int(players.action_space.n), config.network)  # type: ignore[attr-defined]
    return OptionActor(players, network, config.commitment, tuple(seed), new_perception(config), config.watch_every)


def count_actions(env_id: str, config: ExplorationConfig) -> int:
    """A, how many actions an environment has.

    Raises:
        UsageError: as `make_frame_players`.
    """
    players = make_frame_players(env_id, 1, config.network.image_size)
    try:
        return int(players.action_space.n)  # type: ignore[attr-defined]
    finally:
        players.close()
