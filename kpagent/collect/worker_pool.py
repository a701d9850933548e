"""Work for several processes of this machine, spawned and ended with the one that asked for it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from kpagent.errors import UsageError

_work: list[Callable[..., Any]] = []


def run_in_workers(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Call a function with many arguments, in processes that each get one copy of it.

    Processes are spawned, since a fork of one that has rendered with MuJoCo hangs; a script that asks for them must begin
    its work under `if __name__ == "__main__":`. Where the iteration ends early, what is under way is finished and dropped.

    Args:
        work: the function; what it keeps between calls stays in its process.
        tasks: its arguments, call by call.
        workers: processes.

    Yields:
        What the calls return, as they are done.

    Raises:
        UsageError: fewer than one worker, a function that cannot be pickled, or a process that was killed; also what a call
            raised.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(f"this cannot be handed to other processes, take one worker: {error}") from error
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, max(len(tasks), 1)), context, _begin, (work,))
    try:
        for done in as_completed([pool.submit(_call, task) for task in tasks]):
            yield done.result()
    except BrokenProcessPool as error:
        raise UsageError("a worker process was killed, perhaps for want of memory; take fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Callable[..., Any]) -> None:
    # Ctrl-C reaches all processes of a terminal: the one that asked says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work.append(work)


def _call(task: tuple[Any, ...]) -> Any:
    return _work[-1](*task)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
