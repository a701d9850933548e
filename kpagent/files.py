"""Files that are whole or absent: write beside, then rename. Weights in safetensors, with what they are in the header."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kpagent.errors import UsageError

HEADER = "kpagent"
Made = TypeVar("Made")


def replace_file(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new file beside `path`, then put it in the place of `path`; `path` is never half-written.

    Args:
        path: the file to make or replace; its folder is made.
        write: is handed a path in the same folder, with the same suffix, to write to.

    Raises:
        UsageError: the file cannot be written (a full disk, no permission); `path` is as it was before.
    """
    path = Path(path)
    beside = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        mode = beside.stat().st_mode
        write(beside)
        # safetensors makes files that nobody else may read.
        beside.chmod(mode)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Make `path` hold `text`, whole or not at all."""
    replace_file(path, lambda beside: _write_text(beside, text))


def write_json(path: str | Path, value: Any) -> None:
    """Make `path` hold `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with a JSON header, sealed by a digest that `load_tensors` verifies.

    Args:
        path: ends in .safetensors by custom.
        tensors: by name; they are stored contiguous, on the CPU.
        header: what the tensors are, as plain JSON values.

    Raises:
        UsageError: the file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    metadata = {HEADER: text, "sha256": _digest(stored, text)}
    replace_file(path, lambda beside: save_file(stored, beside, metadata=metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; nothing is unpickled.

    Returns:
        The tensors by name, and the header.

    Raises:
        UsageError: no such file, not such a file, truncated, or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no weights file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        text = metadata[HEADER]
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("the header is not a JSON object")
    except KeyError:
        raise UsageError(f"{path} was not written by kpagent: its header is missing") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {_reason(error)}") from error
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{path} is damaged or no safetensors file: {error}") from error
    if metadata.get("sha256") != _digest(tensors, text):
        raise UsageError(f"{path} was altered after it was written: its digest does not match")
    return tensors, header


def require_kind(path: str | Path, header: Mapping[str, Any], kind: str, version: int) -> None:
    """Refuse a file of another model, or of a version that is not this one's.

    Args:
        path: of the file, for the message.
        header: of it, with `model` and `format`.
        kind: the model that is wanted.
        version: its format.

    Raises:
        UsageError: another.
    """
    if header.get("model") != kind:
        raise UsageError(f"{path} holds a {header.get('model')!r}, not a {kind}")
    if header.get("format") != version:
        raise UsageError(f"{path} has format {header.get('format')!r}; this kpagent reads format {version}")


def require_fit(path: str | Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a model.

    Args:
        path: where they came from, for the message.
        tensors: by name.
        wanted: tensors of the same names, shapes and types, on any device; their values do not matter.

    Raises:
        UsageError: others, or numbers among them that are not finite.
    """
    expected, found = _forms(wanted), _forms(tensors)
    if expected != found:
        name = sorted(expected.items() ^ found.items())[0][0]
        raise UsageError(f"{path} does not fit its configuration: {name} is {found.get(name)}, not {expected.get(name)}")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise UsageError(f"{path} holds weights that are not finite numbers")


def from_header(path: str | Path, make: Callable[[], Made]) -> Made:
    """A model as the header of a file describes it, on the meta device, where it takes no memory until tensors are assigned.

    A configuration that does not fit could ask for more memory than there is.

    Args:
        path: where the header came from, for messages.
        make: the model from what the header holds.

    Raises:
        UsageError: the configuration is not valid.
    """
    try:
        with torch.device("meta"):
            return make()
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} has no valid configuration: {error}") from error


def read_header(path: str | Path) -> dict[str, Any]:
    """The header alone of a file of `save_tensors`, without reading its tensors.

    Raises:
        UsageError: no such file, or not such a file.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is no weights file of kpagent") from error
    if not isinstance(header, dict):
        raise UsageError(f"{path} is no weights file of kpagent")
    return header


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in tensors.items()}


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
