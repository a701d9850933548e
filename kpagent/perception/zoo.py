"""The zoo: trained keypoints by name, shipped inside the package, or from a file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from kpagent.errors import UsageError
from kpagent.files import read_header
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import load_detector
from kpagent.training import pick_device

SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def load(name_or_path: str | Path, device: str = "auto") -> KeypointDetector:
    """A trained model, ready to encode.

    Args:
        name_or_path: a name of the zoo, such as "pong", or the path of a file that a model's `save` or
            `kpagent pretrain` wrote.
        device: where to put it; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UsageError: neither a name nor a file, or a file that is damaged, altered or of another kind.
    """
    return load_detector(find(name_or_path), pick_device(device))


def find(name_or_path: str | Path) -> Path:
    """The file behind a name of the zoo or a path.

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
    if path.suffix or len(path.parts) > 1:
        raise UsageError(f"no weights file at {path}")
    close = difflib.get_close_matches(text.lower(), shipped, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(
        f"no weights called {text!r}{hint}; there are {', '.join(shipped) or 'none'}, or give the path of a file"
    )


def shipped() -> dict[str, dict[str, Any]]:
    """The header (configuration and provenance) of each shipped file, by name."""
    return {file.stem: read_header(file) for file in sorted(SHIPPED.glob("*.safetensors"))}
