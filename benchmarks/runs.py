"""Runs of a benchmark, each in a Python process of its own, kept on disk and not repeated.

A run is a function, named by its module, with JSON arguments and a JSON result. A process of its own makes its peak memory
that of the run alone, and leaves nothing behind for the next. What it prints lies beside its result, in a file that ends
in `.log`. A run ends with the process that started it, so that no two work on the same files after a restart.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpagent.errors import UsageError

PAUSE = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Run:
    """One call of a function, and where its result is kept."""

    function: str
    """`module:function`; it takes the arguments by name and returns what JSON can hold."""
    arguments: Mapping[str, Any]
    """What JSON can hold, and gives back unchanged: no tuples."""
    path: Path
    """File of the result; its name ends in .json."""

    @property
    def log(self) -> Path:
        """File of what the run printed."""
        return self.path.with_suffix(".log")

    @property
    def done(self) -> bool:
        """Whether the file of the result is there."""
        return self.path.exists()

    def result(self) -> Any:
        """The result of this run, from its file.

        Raises:
            UsageError: there is no such file, or it holds another run.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            kept, result = (found["function"], found["arguments"]), found["result"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.path} is no result of a run; remove it to run again") from error
        if kept != (self.function, self.arguments):
            raise UsageError(f"{self.path} holds a run with other settings, {kept[1]}; remove it, or choose another folder")
        return result


def run_all(
    runs: Sequence[Run], *, jobs: int = 1, threads: int | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Any]:
    """The results of several runs, in their order; those that are missing are run, `jobs` at a time.

    Args:
        runs: no two with the same file.
        jobs: processes at a time.
        threads: for OpenMP, and thereby torch, in each process; its own choice, if not given.
        say: is told when a run begins and when it is done.

    Raises:
        UsageError: before anything is started: `jobs` is below 1, two runs share a file, a file holds another run, or
            arguments are not for JSON. Later: a run failed; the line says why, and where the rest of what it printed lies.
            No run is begun after that, those under way are finished.
    """
    _check(runs, jobs)
    waiting = [run for run in runs if not run.done]
    begun, of = 0, len(waiting)
    active: dict[Path, tuple[Run, subprocess.Popen[bytes]]] = {}
    failure: UsageError | None = None
    try:
        while active or (waiting and failure is None):
            while waiting and failure is None and len(active) < jobs:
                run, begun = waiting.pop(0), begun + 1
                say(f"{run.path}: begun, {begun} of {of}")
                active[run.path] = run, _start(run, threads)
            time.sleep(PAUSE)
            for run, process in list(active.values()):
                if process.poll() is not None:
                    del active[run.path]
                    process.communicate()
                    if process.returncode == 0:
                        say(f"{run.path}: done")
                    else:
                        failure = failure or UsageError(
                            f"the run for {run.path} failed: {_reason(run.log, process.returncode)}; see {run.log}"
                        )
    finally:
        for _, process in active.values():
            process.kill()
            process.communicate()
    if failure is not None:
        raise failure
    return [run.result() for run in runs]


def _check(runs: Sequence[Run], jobs: int) -> None:
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, not {jobs}")
    if len({run.path for run in runs}) < len(runs):
        raise UsageError("two runs have the same file for their results")
    for run in runs:
        if run.path.suffix != ".json":
            raise UsageError(f"the file of a result must end in .json, not {run.path.name}")
        try:
            same = json.loads(json.dumps(run.arguments)) == run.arguments
        except (TypeError, ValueError):
            same = False
        if not same:
            raise UsageError(f"arguments must be what JSON gives back unchanged, not {run.arguments}")
        if run.done:
            run.result()


def _start(run: Run, threads: int | None) -> subprocess.Popen[bytes]:
    described = json.dumps({"function": run.function, "arguments": run.arguments})
    command = [sys.executable, "-u", "-m", "kpagent.benchmarks.runs", described, str(run.path)]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    try:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("wb") as log:
            # Our end of the pipe closes when this process dies, however it dies.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    except OSError as error:
        raise UsageError(f"cannot write {run.log}: {(error.strerror or str(error)).lower()}") from error


def _reason(log: Path, code: int) -> str:
    if code < 0:
        return f"killed by signal {-code}{', perhaps for want of memory' if -code == signal.SIGKILL else ''}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next(filter(None, reversed(lines)), f"it ended with code {code}")


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock this thread would hold when Python ends.
    os.read(0, 1)
    os._exit(1)


def main(described: str, path: str) -> None:
    """Do one run in this process: call its function and write its result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run = json.loads(described)
    module, _, name = run["function"].partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**run["arguments"])
        from kpagent.files import write_json

        write_json(path, run | {"result": result})
    except UsageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
