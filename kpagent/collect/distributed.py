"""Diverse frame pairs through Ray: workers play, one buffer in the driver keeps what is unlike the rest."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from gymnasium.vector import VectorEnv

from kpagent.collect.pairs import FramePairs, PairsConfig, PairsProgress, diversify
from kpagent.collect.trajectories import PairBatch, PairSampler
from kpagent.errors import UsageError

MakeEnv = Callable[[int, int], VectorEnv[Any, Any, Any]]
"""`make_env(num_envs, seed)`: a vector env, made anew in each worker; Ray pickles the function."""

CALLS_IN_FLIGHT = 2
"""Calls that each worker has before it: one to work on while the driver takes in the result of the other."""
RESTARTS = 10
"""Times that a worker may die before the run goes on without it."""

# Ray refuses a store below 79 MB.
_SMALLEST_STORE = 100 * 2**20


@dataclass(frozen=True)
class _Call:
    """A share of the budget, on its way to a worker and back."""

    worker: int
    interactions: int


class _Worker:
    """A vector env in a process of its own. It plays from one call to the next, and survives its own death anew."""

    def __init__(self, make_env: bytes, config: PairsConfig, number: int) -> None:
        self._make_env = make_env
        self._config = config
        self._number = number
        self._sampler: PairSampler | None = None

    def sample(self, call: int, pairs: int, interactions: int) -> tuple[PairBatch, int]:
        if self._sampler is None:
            # `call` is 0 but in a worker that Ray has started again, which so plays other episodes than its predecessor.
            seed = (self._config.seed, self._number, call)
            self._sampler = PairSampler(
                self._load_make_env()(self._config.num_envs, self._config.seed + self._number),
                image_size=self._config.image_size,
                trajectory_length=self._config.trajectory_length,
                seed=seed,
                first_episode=(self._number << 48) + (call << 28),
            )
        return self._sampler.sample(pairs, interactions)

    def _load_make_env(self) -> MakeEnv:
        import ray

        try:
            return ray.cloudpickle.loads(self._make_env)
        except ImportError as error:
            cure = "define it in the script itself, or in a module on the workers' PYTHONPATH"
            raise UsageError(f"the workers cannot load make_env ({error}): {cure}") from None


def collect_pairs_distributed(
    make_env: MakeEnv,
    config: PairsConfig | None = None,
    *,
    workers: int,
    address: str | None = None,
    env_id: str = "",
) -> Generator[PairsProgress, None, FramePairs]:
    """As `kpagent.collect.pairs.collect_pairs`, with the envs in any number of Ray workers of one CPU each.

    A worker that dies is started again, up to `RESTARTS` times, and then done without; the run ends early only when none is
    left. Results arrive in the order that the workers finish, so one seed does not give one dataset here.

    Args:
        make_env: `make_env(num_envs, seed)` makes one worker's vector env, as of `PairSampler`. It must be picklable.
        config: how; `num_envs` envs in each worker, and `interactions` of all workers together.
        workers: processes.
        address: of a Ray cluster to join, such as "auto" or "ray://host:10001". Without one, a cluster that this process
            has joined already is used, or else a local one is started, and shut down at the end.
        env_id: what the dataset says it came from.

    Raises:
        UsageError: ray is not installed, no cluster answers or it has fewer CPUs than workers, `make_env` gives no env of
            frames, or every worker died for good.
    """
    config = config or PairsConfig()
    if not isinstance(workers, int) or not 1 <= workers <= 1000:
        raise UsageError(f"workers must be a whole number from 1 to 1000; got {workers!r}")
    try:
        import ray
    except ImportError:
        raise UsageError("collecting through Ray needs ray: pip install 'kpagent[distributed]'") from None
    cpus = os.cpu_count() or 1
    if address is None and not ray.is_initialized() and workers > cpus:
        raise UsageError(f"{workers} workers need as many CPUs, and this machine has {cpus}; take fewer, or join a cluster")
    try:
        # By hand, not as an argument that Ray pickles, so that a worker which cannot load it says so instead of dying.
        pickled = ray.cloudpickle.dumps(make_env)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise UsageError(f"make_env cannot be pickled for the workers: {str(error).splitlines()[0]}") from error
    return _collect(pickled, config, workers, address, env_id)


def _collect(
    make_env: bytes, config: PairsConfig, workers: int, address: str | None, env_id: str
) -> Generator[PairsProgress, None, FramePairs]:
    about = {"env": env_id, "num_envs": config.num_envs, "workers": workers}
    with _ray(config, workers, address), contextlib.closing(_stream(make_env, config, workers)) as stream:
        return (yield from diversify(stream, config, about))


@contextlib.contextmanager
def _ray(config: PairsConfig, workers: int, address: str | None) -> Iterator[None]:
    import ray

    started = address is not None or not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            in_flight = workers * CALLS_IN_FLIGHT * config.candidates * 6 * config.image_size**2
            local = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _SMALLEST_STORE + 2 * in_flight}
            ray.init(**quiet, **local)
        else:
            _require_answer(address)
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < workers:
            raise UsageError(f"{workers} workers need a CPU each, and the Ray cluster has {cpus}")
        yield
    finally:
        if started:
            ray.shutdown()


def _require_answer(address: str) -> None:
    # Ray itself goes on trying for minutes.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"no Ray cluster answers at {address}: {error}") from error


def _stream(make_env: bytes, config: PairsConfig, workers: int) -> Generator[tuple[PairBatch, int], None, None]:
    import ray

    remote = ray.remote(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)(_Worker)
    actors = {number: remote.remote(make_env, config, number) for number in range(workers)}
    calls = dict.fromkeys(actors, 0)
    pending: dict[Any, _Call] = {}
    left = config.interactions
    # What a round's pairs cost unless episodes end early; a worker returns sooner when it has them sooner.
    share = min(config.candidates * config.trajectory_length, math.ceil(config.interactions / workers))
    try:
        while left > 0 or pending:
            for number, actor in actors.items():
                while left > 0 and sum(call.worker == number for call in pending.values()) < CALLS_IN_FLIGHT:
                    call = _Call(number, min(share, left))
                    left -= call.interactions
                    pending[actor.sample.remote(calls[number], config.candidates, call.interactions)] = call
                    calls[number] += 1
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            call = pending.pop(done)
            try:
                batch, spent = ray.get(done)
            except ray.exceptions.RayActorError as error:
                left += call.interactions
                actors.pop(call.worker, None)
                if not actors:
                    raise UsageError(f"every worker died {RESTARTS + 1} times: {str(error).splitlines()[0]}") from error
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError):
                    raise UsageError(str(error.cause)) from None
                raise
            left += call.interactions - spent
            yield batch, spent
    finally:
        # Ray ends an actor that nobody refers to. To kill one, or to leave a result behind, would be reported as a failure.
        actors.clear()
        if pending and ray.is_initialized():
            for ref in pending:
                ray.cancel(ref)
            for ref in ray.wait(list(pending), num_returns=len(pending), timeout=30)[0]:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(ref)
