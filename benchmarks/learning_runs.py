"""What runs that learn from sequences share: their cost over all goes, and stages that another run has learned."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SPENT = "spent.json"
"""In the folder of a run: what its training has cost, over all goes."""


@contextlib.contextmanager
def counting(folder: Path) -> Iterator[Callable[[], None]]:
    """Adds what is spent inside to `SPENT`, at the end and whenever the function that it gives is called.

    Args:
        folder: of the run.
    """
    from kpagent.files import write_json
    from kpagent.spending import Meter

    before, meter = spent(folder), Meter()

    def keep() -> None:
        now = meter.read()
        totals = {name: round(before.get(name, 0.0) + now[name], 3) for name in ("wall_s", "cpu_s")}
        peak = max(before.get("peak_memory_mb", 0.0), now["peak_memory_mb"])
        write_json(folder / SPENT, totals | {"peak_memory_mb": peak})

    try:
        yield keep
    finally:
        keep()


def spent(folder: Path) -> dict[str, float]:
    """`wall_s`, `cpu_s` and `peak_memory_mb` of the run in a folder; empty where none has begun."""
    path = folder / SPENT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def take_over(giver: Path, folder: Path, checkpoint: str, stage: str, about: Callable[[Mapping[str, Any]], Any]) -> bool:
    """Put the finished stage of another run where this run looks for its own, unless it has begun that.

    Args:
        giver: folder of the other run.
        folder: of this run, which has been claimed.
        checkpoint: name of the file with the state of the stage.
        stage: its name among the settings of learning, which know its `steps`.
        about: of the settings in `config.json`, all that decides the stage. Where it is the same, both runs learn the very
            same.

    Returns:
        Whether it did: the other run has finished the stage, and learned it as this run would.
    """
    from kpagent.files import read_header, replace_file

    source, target = giver / checkpoint, folder / checkpoint
    theirs, ours = _settings(giver), _settings(folder)
    if target.exists() or not source.exists() or theirs is None or ours is None:
        return False
    try:
        same = about(theirs) == about(ours)
        steps = ours["learning"][stage]["steps"]
    except KeyError:
        return False
    if not same or read_header(source).get("step") != steps:
        return False
    replace_file(target, lambda beside: _copy(source, beside))
    return True


def _settings(folder: Path) -> dict[str, Any] | None:
    from kpagent.run_folder import SETTINGS

    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
