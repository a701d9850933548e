from __future__ import annotations

import re
from pathlib import Path

import pytest

from kpagent.agents import shipped
from kpagent.agents.shipped import find_agent
from kpagent.errors import UsageError


def test_a_name_finds_what_is_shipped_and_a_path_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    monkeypatch.setattr(shipped, "SHIPPED", folder)
    monkeypatch.chdir(tmp_path)
    for name, message in (("pong", "there are none, or give the path"), ("agents", "no agent file at agents")):
        with pytest.raises(UsageError, match=message):
            find_agent(name)
    for game in ("pong", "breakout"):
        (folder / f"{game}.safetensors").touch()
    assert find_agent("pong") == folder / "pong.safetensors"
    with pytest.raises(UsageError, match=re.escape("no agent called 'Pnog' (did you mean pong?); there are breakout, pong")):
        find_agent("Pnog")
    with pytest.raises(UsageError, match=r"no agent file at runs/pong"):
        find_agent("runs/pong")
    (tmp_path / "mine").touch()
    assert find_agent("mine") == Path("mine")
