"""Work in other processes; this module is imported in each of them, so it imports little."""

from __future__ import annotations

import os

import pytest

from kpagent.collect.worker_pool import run_in_workers
from kpagent.errors import UsageError


def halve(number: int) -> int:
    if number < 0:
        raise UsageError(f"{number} cannot be halved")
    if number == 0:
        os._exit(3)
    return number // 2


def test_workers_return_what_is_done_and_say_what_failed() -> None:
    assert sorted(run_in_workers(halve, [(2,), (8,), (4,)], 2)) == [1, 2, 4]
    with pytest.raises(UsageError, match="-1 cannot be halved"):
        list(run_in_workers(halve, [(-1,)], 1))
    with pytest.raises(UsageError, match="a worker process was killed"):
        list(run_in_workers(halve, [(0,)], 1))
    with pytest.raises(UsageError, match="cannot be handed to other processes"):
        list(run_in_workers(lambda: None, [()], 1))
    with pytest.raises(UsageError, match="workers must be at least 1, not 0"):
        list(run_in_workers(halve, [], 0))
