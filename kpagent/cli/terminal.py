"""What every command shows on the terminal, and how it hears Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# A pipe has no width of its own, and 80 columns would cut the names of figures.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with the time left, gone when it is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        yield shown


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[list[bool]]:
    """A list that is no longer empty once Ctrl-C was pressed; pressed again, it interrupts at once."""
    stopped: list[bool] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
