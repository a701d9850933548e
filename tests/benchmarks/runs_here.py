"""Runs of a benchmark in the process of its test: a process of its own takes seconds to import what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from kpagent.benchmarks.runs import Run
from kpagent.files import write_json


def do_here(run: Run, arguments: Mapping[str, Any] | None = None) -> None:
    """Do a run, or what other arguments say; the result is kept as that of the run."""
    module, _, name = run.function.partition(":")
    result = getattr(importlib.import_module(module), name)(**(run.arguments if arguments is None else arguments))
    write_json(run.path, {"function": run.function, "arguments": dict(run.arguments), "result": result})
