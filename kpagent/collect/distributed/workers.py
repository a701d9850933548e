"""Ray workers: objects of any kind in processes of their own, which are started again when they die.

Whoever uses them holds calls, not results: what a call gives stays in Ray's object store until somebody takes it, and can
be handed to another worker's call without passing through this process.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kpagent.errors import UsageError

RESTARTS = 10
"""Times in a row that a worker may die, before it is done without."""
PATIENCE_S = 60.0
"""Seconds without an answer, after which it is asked whether the cluster still has a CPU."""


class WorkerDied(Exception):  # noqa: N818 (nobody's mistake, and whoever sent the call sends it again)
    """The worker died before it answered. It has been started again, or given up."""


class AnswerLost(Exception):  # noqa: N818
    """What the call was to work on, or its answer, has gone down with a machine. The worker lives."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call on its way to a worker and back.

    Attributes:
        worker: number of the worker.
        life: how often the worker had been started again when the call was sent.
        answers: references to what it gives, each of which may be an argument of another call.
    """

    worker: int
    life: int
    answers: tuple[Any, ...]


class Workers:
    """Objects of one kind, each in a process of its own, called by their numbers.

    Ray could start a process again by itself, but would make its object as the first time; here an object is told how
    often its process was started again, so that it can draw other random numbers, and deaths are counted from the last
    answer, so that a long run bears any number of them.

    Args:
        make: `make(number, life)` makes a worker's object, in its process and at its first call; `life` is how often that
            process was started again. It must be picklable.
        count: workers, numbered from 0.
        name: what messages call one of them.
        made_by: what messages call `make`.
        cpus: of each.
        in_order: whether a worker takes its calls in the order in which they were sent. If not, a call whose arguments
            are not there yet does not hold up those behind it.

    Attributes:
        numbers: of the workers that have not been given up.
        deaths: of all workers so far.

    Raises:
        UsageError: `make` cannot be pickled.
    """

    def __init__(
        self,
        make: Callable[[int, int], Any],
        count: int,
        *,
        name: str = "worker",
        made_by: str = "make",
        cpus: float = 1.0,
        in_order: bool = True,
    ) -> None:
        import ray

        try:
            # By hand, not as an argument that Ray pickles, so that a worker which cannot load it says so instead of dying.
            self._make = ray.cloudpickle.dumps(make)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise UsageError(f"{made_by} cannot be pickled for the {name}s: {str(error).splitlines()[0]}") from error
        self._name, self._made_by = name, made_by
        self._remote = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD", allow_out_of_order_execution=not in_order)(
            _Host
        )
        self._lives = dict.fromkeys(range(count), 0)
        self._failures = dict.fromkeys(range(count), 0)
        self._handles = {number: self._start(number) for number in range(count)}
        self._pending: set[Call] = set()
        self.deaths = 0

    @property
    def numbers(self) -> list[int]:
        """Of the workers that have not been given up."""
        return list(self._handles)

    def life(self, number: int) -> int:
        """How often a worker was started again so far."""
        return self._lives[number]

    def in_flight(self, number: int) -> int:
        """Calls of a worker whose results were not taken yet."""
        return sum(call.worker == number for call in self._pending)

    def send(self, number: int, method: str, *arguments: Any, answers: int = 1) -> Call:
        """Call a method of a worker's object.

        Args:
            number: of the worker.
            method: its name.
            arguments: values, what `put` gave, or the answers of another call; the last two travel from store to store.
            answers: how many the method returns, as a tuple if more than one.
        """
        refs = self._handles[number].call.options(num_returns=answers).remote(method, *arguments)
        call = Call(number, self._lives[number], tuple(refs) if answers > 1 else (refs,))
        self._pending.add(call)
        return call

    def result(self, call: Call) -> Any:
        """The first answer of a call, once it is there.

        Raises:
            WorkerDied: send the call again, if its worker is still among `numbers`.
            AnswerLost: send it again, if its arguments were values.
            UsageError: the worker's object raised it; no worker is left; or a machine has neither memory nor disk left.
        """
        import ray

        self._pending.discard(call)
        try:
            answer = ray.get(call.answers[0])
        except ray.exceptions.RayError as error:
            self.forget(call)
            reason = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(reason, UsageError):
                raise UsageError(str(reason)) from None
            if isinstance(reason, ray.exceptions.ObjectStoreFullError | ray.exceptions.OutOfDiskError):
                raise _full() from error
            if not isinstance(reason, ray.exceptions.RayError):
                raise
            # As the cause of a task's error, a death is that of whoever was to give its arguments.
            died = isinstance(error, ray.exceptions.RayActorError) and not isinstance(error, ray.exceptions.RayTaskError)
            self._fail(call, error, died=died)
            raise (WorkerDied if died else AnswerLost) from error
        self._failures[call.worker] = 0
        return answer

    def forget(self, call: Call) -> None:
        """Do without the answers of a call that has failed."""
        import ray

        self._pending.discard(call)
        # Ray reports an error that nobody has looked at.
        for ref in call.answers:
            if ray.wait([ref], timeout=0, fetch_local=False)[0]:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(ref)

    def close(self) -> None:
        """Let all workers go."""
        import ray

        # Ray ends an actor that nobody refers to. To kill one, or to leave a result behind, would be reported as a failure.
        self._handles.clear()
        pending = [call.answers[0] for call in self._pending]
        self._pending.clear()
        if pending and ray.is_initialized():
            for ref in pending:
                ray.cancel(ref)
            for ref in ray.wait(pending, num_returns=len(pending), timeout=30, fetch_local=False)[0]:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(ref)

    def _fail(self, call: Call, error: Exception, *, died: bool) -> None:
        number = call.worker
        # All calls that a process had before it die with it; it dies once.
        if number not in self._handles or call.life != self._lives[number]:
            return
        self._failures[number] += 1
        self.deaths += died
        if self._failures[number] > RESTARTS:
            del self._handles[number]
            if not self._handles:
                reason = str(error).splitlines()[0]
                raise UsageError(f"every {self._name} died {RESTARTS + 1} times: {reason}") from error
        elif died:
            self._lives[number] += 1
            self._handles[number] = self._start(number)

    def _start(self, number: int) -> Any:
        return self._remote.remote(self._make, number, self._lives[number], f"the {self._name}s cannot load {self._made_by}")


class _Host:
    """The process of a worker's object."""

    def __init__(self, make: bytes, number: int, life: int, trouble: str) -> None:
        self._make, self._number, self._life, self._trouble = make, number, life, trouble
        self._object: Any = None

    def call(self, method: str, *arguments: Any) -> Any:
        if self._object is None:
            self._object = self._load()(self._number, self._life)
        return getattr(self._object, method)(*arguments)

    def _load(self) -> Callable[[int, int], Any]:
        import ray

        try:
            make: Callable[[int, int], Any] = ray.cloudpickle.loads(self._make)
        except ImportError as error:
            cure = "define it in the script itself, or in a module on the workers' PYTHONPATH"
            raise UsageError(f"{self._trouble} ({error}): {cure}") from None
        return make


def put(value: Any) -> Any:
    """Lay a value into the store once, for any number of calls.

    Raises:
        UsageError: this machine has neither memory nor disk left for it.
    """
    import ray

    try:
        return ray.put(value)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise _full() from error


def wait(calls: Sequence[Call]) -> list[Call]:
    """Those of at least one call that are done, well or not, as soon as there is one.

    Raises:
        UsageError: all of the cluster's CPUs have gone away.
    """
    import ray

    refs = {call.answers[0]: call for call in calls}
    while not ray.wait(list(refs), num_returns=1, timeout=PATIENCE_S)[0]:
        if ray.cluster_resources().get("CPU", 0) < 1:
            raise UsageError("the Ray cluster has no CPU left: the machines that it had are gone")
    return [refs[ref] for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]]


def ready(call: Call) -> bool:
    """Whether a call is done, well or not."""
    import ray

    return bool(ray.wait([call.answers[0]], timeout=0, fetch_local=False)[0])


def _full() -> UsageError:
    return UsageError("Ray's object store is full, and so is the disk that it spills to: free some, or keep less under way")
