"""Work in many processes and on many machines: the one package that knows Ray."""

from kpagent.collect.distributed.cluster import cluster, local_cluster, require_workers
from kpagent.collect.distributed.pairs import MakeEnv, collect_pairs_distributed
from kpagent.collect.distributed.workers import AnswerLost, Call, WorkerDied, Workers, put, ready, wait

__all__ = [
    "AnswerLost",
    "Call",
    "MakeEnv",
    "WorkerDied",
    "Workers",
    "cluster",
    "collect_pairs_distributed",
    "local_cluster",
    "put",
    "ready",
    "require_workers",
    "wait",
]
