"""Trained agents by name, shipped inside the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from kpagent.errors import UsageError
from kpagent.perception import zoo

SHIPPED = zoo.SHIPPED / "agents"


def find_agent(name_or_path: str | Path) -> Path:
    """The file behind the name of a shipped agent or a path.

    Args:
        name_or_path: such as "pong", or the path of a file that `KeyQN.save` or `kpagent train` wrote.

    Raises:
        UsageError: neither; the message lists what there is.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    text = str(name_or_path)
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    if text in shipped:
        return shipped[text]
    if path.suffix or len(path.parts) > 1 or path.is_dir():
        raise UsageError(f"no agent file at {path}")
    close = difflib.get_close_matches(text.lower(), shipped, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(f"no agent called {text!r}{hint}; there are {', '.join(shipped) or 'none'}, or give the path of a file")
