"""The folder of a training run: whose it is, so that a run is taken up as it was started and never overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpagent.errors import UsageError
from kpagent.files import write_json

SETTINGS = "config.json"
"""In the folder: how the run was started."""


def claim(out: Path, settings: Mapping[str, Any], *, begun: bool, resume: bool) -> None:
    """Write down how a run is started, or find that the run in the folder was started so.

    Args:
        out: the folder.
        settings: of the run, as plain values.
        begun: whether the folder holds a run.
        resume: whether that is to be taken up.

    Raises:
        UsageError: it holds a run that is not to be taken up, or one of other settings, or it cannot be written.
    """
    path = out / SETTINGS
    if begun:
        if not resume:
            raise UsageError(f"{out} holds a run already; add --resume to take it up, or choose another --out")
        try:
            was = _flat(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise UsageError(f"{path} does not say how the run was started; choose another --out") from None
        for name, value in _flat(json.loads(json.dumps(settings))).items():
            if was.get(name) != value:
                raise UsageError(f"the run in {out} has {name} {was.get(name)}, not {value}; resume it as it was started")
    write_json(path, settings)


def _flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Settings by their names, joined by points."""
    if not isinstance(settings, dict):
        return {name: settings}
    parts = [_flat(value, f"{name}.{key}".lstrip(".")) for key, value in settings.items()]
    return {key: value for part in parts for key, value in part.items()}
