from __future__ import annotations

import json
from pathlib import Path

import pytest

from kpagent.errors import UsageError
from kpagent.run_folder import SETTINGS, claim

STARTED = {"model": {"size": 3, "shape": (1, 2)}, "seed": 0}


def test_a_new_run_writes_down_how_it_is_started(tmp_path: Path) -> None:
    claim(tmp_path / "run", STARTED, begun=False, resume=False)
    assert json.loads((tmp_path / "run" / SETTINGS).read_text()) == {"model": {"size": 3, "shape": [1, 2]}, "seed": 0}
    # One that was claimed and did not begin may be started otherwise.
    claim(tmp_path / "run", {"seed": 4}, begun=False, resume=False)
    assert json.loads((tmp_path / "run" / SETTINGS).read_text()) == {"seed": 4}


def test_a_run_is_taken_up_as_it_was_started_and_never_overwritten(tmp_path: Path) -> None:
    claim(tmp_path, STARTED, begun=False, resume=False)
    claim(tmp_path, STARTED, begun=True, resume=True)
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        claim(tmp_path, STARTED, begun=True, resume=False)
    with pytest.raises(UsageError, match=r"has model\.size 3, not 5; resume it as it was started"):
        claim(tmp_path, {"model": {"size": 5, "shape": (1, 2)}, "seed": 0}, begun=True, resume=True)
    with pytest.raises(UsageError, match="has depth None, not 1"):
        claim(tmp_path, STARTED | {"depth": 1}, begun=True, resume=True)


@pytest.mark.parametrize("text", [None, "", "{", "\xff"])
def test_a_run_that_does_not_say_how_it_was_started_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / SETTINGS).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="does not say how the run was started"):
        claim(tmp_path, STARTED, begun=True, resume=True)
