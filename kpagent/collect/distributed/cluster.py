"""A Ray cluster for a while: joined, or started on this machine and shut down at the end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from kpagent.errors import UsageError

# Ray refuses a store below 79 MB.
_SMALLEST_STORE = 100 * 2**20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def require_workers(workers: int, address: str | None, what: str = "workers") -> None:
    """Refuse, before any work starts, a number of workers that cannot be had.

    Args:
        workers: processes of one CPU each.
        address: of a cluster; its CPUs are looked at by `cluster`.
        what: what messages call the workers.

    Raises:
        UsageError: no such number, ray is not installed, or this machine has fewer CPUs and no cluster is joined.
    """
    if not isinstance(workers, int) or not 1 <= workers <= 1000:
        raise UsageError(f"{what} must be a whole number from 1 to 1000; got {workers!r}")
    try:
        import ray
    except ImportError:
        raise UsageError(f"{what} need ray: pip install 'kpagent[distributed]'") from None
    cpus = os.cpu_count() or 1
    if address is None and not ray.is_initialized() and workers > cpus:
        raise UsageError(f"{workers} {what} need as many CPUs, and this machine has {cpus}; take fewer, or join a cluster")


@contextlib.contextmanager
def cluster(workers: int, address: str | None, in_flight: int, what: str = "workers") -> Iterator[None]:
    """Ray for the length of a with block, without a word on stderr.

    Args:
        workers: CPUs that are needed.
        address: of a Ray cluster to join, such as "auto" or "ray://host:10001". Without one, a cluster that this process
            has joined already is used, or else a local one is started, and shut down at the end.
        in_flight: most bytes under way at one time between processes; a local cluster's store has room for twice as many.
        what: what messages call the workers.

    Raises:
        UsageError: no cluster answers, or it has fewer CPUs.
    """
    import ray

    started = address is not None or not ray.is_initialized()
    if started:
        if address is None:
            store = _SMALLEST_STORE + 2 * in_flight
            # Without "local", Ray would join whatever cluster runs on this machine.
            local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": store}
            ray.init(address="local", **local, **_QUIET)
        else:
            _require_answer(address)
            try:
                ray.init(address=address, **_QUIET)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < workers:
            raise UsageError(f"{workers} {what} need a CPU each, and the Ray cluster has {cpus}")
        yield
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def local_cluster(nodes: int, in_flight: int, cpus: int = 1) -> Iterator[None]:
    """A cluster of many nodes, all on this machine, for the length of a with block, which this process has joined.

    What travels between its nodes goes through their stores and a socket, as between machines. The node that this process
    belongs to has no CPU, and is one more.

    Args:
        nodes: that have CPUs.
        in_flight: as of `cluster`; each node's store has room for twice as many.
        cpus: of each node.

    Raises:
        RuntimeError: this process has joined a cluster already.
    """
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        raise RuntimeError("this process has joined a Ray cluster already")
    each: dict[str, Any] = {"object_store_memory": _SMALLEST_STORE + 2 * in_flight}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | each)
    try:
        for _ in range(nodes):
            started.add_node(num_cpus=cpus, **each)
        ray.init(address=started.address, **_QUIET)
        yield
    finally:
        ray.shutdown()
        started.shutdown()


def _require_answer(address: str) -> None:
    # Ray itself goes on trying for minutes.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"no Ray cluster answers at {address}: {error}") from error
