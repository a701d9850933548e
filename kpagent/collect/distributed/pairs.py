"""Diverse frame pairs through Ray: workers play, one buffer in the driver keeps what is unlike the rest."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from gymnasium.vector import VectorEnv

from kpagent.collect.distributed.cluster import cluster, require_workers
from kpagent.collect.distributed.workers import AnswerLost, Call, WorkerDied, Workers, wait
from kpagent.collect.pairs import FramePairs, PairsConfig, PairsProgress, diversify
from kpagent.collect.trajectories import PairBatch, PairSampler

MakeEnv = Callable[[int, int], VectorEnv[Any, Any, Any]]
"""`make_env(num_envs, seed)`: a vector env, made anew in each worker; Ray pickles the function."""

CALLS_IN_FLIGHT = 2
"""Calls that each worker has before it: one to work on while the driver takes in the result of the other."""


def collect_pairs_distributed(
    make_env: MakeEnv,
    config: PairsConfig | None = None,
    *,
    workers: int,
    address: str | None = None,
    env_id: str = "",
) -> Generator[PairsProgress, None, FramePairs]:
    """As `kpagent.collect.pairs.collect_pairs`, with the envs in any number of Ray workers of one CPU each.

    A worker that dies is started again, up to `RESTARTS` times in a row, and then done without; the run ends early only
    when none is left. Results arrive in the order that the workers finish, so one seed does not give one dataset here.

    Args:
        make_env: `make_env(num_envs, seed)` makes one worker's vector env, as of `PairSampler`. It must be picklable.
        config: how; `num_envs` envs in each worker, and `interactions` of all workers together.
        workers: processes.
        address: as of `cluster`.
        env_id: what the dataset says it came from.

    Raises:
        UsageError: ray is not installed, no cluster answers or it has fewer CPUs than workers, `make_env` gives no env of
            frames, or every worker died for good.
    """
    require_workers(workers, address)
    return _collect(make_env, config or PairsConfig(), workers, address, env_id)


def _collect(
    make_env: MakeEnv, config: PairsConfig, workers: int, address: str | None, env_id: str
) -> Generator[PairsProgress, None, FramePairs]:
    about = {"env": env_id, "num_envs": config.num_envs, "workers": workers}
    in_flight = workers * CALLS_IN_FLIGHT * config.candidates * 6 * config.image_size**2
    with (
        cluster(workers, address, in_flight),
        contextlib.closing(Workers(partial(_new_sampler, make_env, config), workers, made_by="make_env")) as team,
        contextlib.closing(_stream(team, config, workers)) as stream,
    ):
        return (yield from diversify(stream, config, about))


def _new_sampler(make_env: MakeEnv, config: PairsConfig, number: int, life: int) -> PairSampler:
    return PairSampler(
        make_env(config.num_envs, config.seed + number),
        image_size=config.image_size,
        trajectory_length=config.trajectory_length,
        # A worker that was started again plays other episodes than its predecessor.
        seed=(config.seed, number, life),
        first_episode=(number << 48) + (life << 28),
    )


def _stream(team: Workers, config: PairsConfig, workers: int) -> Generator[tuple[PairBatch, int], None, None]:
    shares: dict[Call, int] = {}
    left = config.interactions
    # What a round's pairs cost unless episodes end early; a worker returns sooner when it has them sooner.
    share = min(config.candidates * config.trajectory_length, math.ceil(config.interactions / workers))
    while left > 0 or shares:
        for number in team.numbers:
            while left > 0 and team.in_flight(number) < CALLS_IN_FLIGHT:
                interactions = min(share, left)
                left -= interactions
                shares[team.send(number, "sample", config.candidates, interactions)] = interactions
        for call in wait(list(shares)):
            interactions = shares.pop(call)
            try:
                batch, spent = team.result(call)
            except (WorkerDied, AnswerLost):
                left += interactions
                continue
            left += interactions - spent
            yield batch, spent
