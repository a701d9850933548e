"""A training in stages, followed on the terminal: a bar for each stage, lines, and Ctrl-C that keeps the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, cast

from kpagent.cli.terminal import progress_bar, stop_on_interrupt


class Staged(Protocol):
    """What a run yields after each step."""

    @property
    def stage(self) -> str:
        """What is being learned."""

    @property
    def step(self) -> int:
        """Steps of the stage done."""

    @property
    def steps(self) -> int:
        """Of how many."""


Report = TypeVar("Report", bound=Staged)


def follow(
    begin: Callable[[], Iterator[Report]],
    out: Path,
    doing: Mapping[str, str],
    line: Callable[[Report], str | None],
) -> None:
    """Run a training to its end.

    Args:
        begin: claims the run and gives its reports, a generator.
        out: folder of the run, which can be taken up with --resume.
        doing: words for the bar of each stage.
        line: of a report, what to print; None for nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the step was finished and the run is kept.
    """
    # Before the run is claimed, from when on it is kept.
    with stop_on_interrupt() as stopped:
        run = cast("Generator[Report, None, None]", begin())
        with contextlib.closing(run), progress_bar() as bar:
            stage, task = None, None
            for report in run:
                if task is None or report.stage != stage:
                    stage, task = report.stage, bar.add_task(doing[report.stage], total=report.steps)
                bar.update(task, completed=report.step)
                if (said := line(report)) is not None:
                    bar.console.print(said)
                if stopped:
                    break
    if stopped:
        raise KeyboardInterrupt(f"the run in {out} is kept; go on with --resume")
