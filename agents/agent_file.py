"""Agents on disk: tensors and plain JSON in one safetensors file, nothing of which is ever unpickled.

Stable-Baselines3 keeps pickles inside its zip files, which run whatever code they hold when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.files import load_tensors, read_header, save_tensors

FORMAT = 1
"""Of the file; another one is refused."""

Optimizer = dict[str, Any]
"""The `state_dict` of a torch optimiser."""


def save_agent(
    path: str | Path, about: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], optimizer: Optimizer
) -> None:
    """Write an agent, whole or not at all.

    Args:
        path: of the file.
        about: what is no tensor, as JSON values; `algorithm` names the class.
        tensors: groups of tensors by name.
        optimizer: its state.

    Raises:
        UsageError: the file cannot be written.
    """
    flat = {f"{group}/{name}": value for group, values in tensors.items() for name, value in values.items()}
    slots = {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, values in optimizer["state"].items()
        for name, value in values.items()
    }
    # Some groups hold the defaults of newer optimisers, which are all numbers, booleans or None.
    save_tensors(path, flat | slots, {"agent": FORMAT, **about, "optimizer": optimizer["param_groups"]})


def load_agent(path: str | Path, algorithm: str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], Optimizer]:
    """Read what `save_agent` wrote.

    Args:
        path: of the file.
        algorithm: the class that it must be of.

    Returns:
        As the last three arguments of `save_agent`.

    Raises:
        UsageError: no such file, damaged or altered, no agent, of another format or another algorithm.
    """
    path = Path(path)
    if not path.is_file() and path.with_suffix(".safetensors").is_file():
        path = path.with_suffix(".safetensors")
    if not path.is_file():
        raise UsageError(f"no agent file at {path}")
    require_agent(read_header(path), path, algorithm)
    stored, about = load_tensors(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in stored.items():
        group, _, rest = name.partition("/")
        if group != "optimizer":
            tensors.setdefault(group, {})[rest] = value
            continue
        index, _, slot = rest.partition("/")
        if not index.isdecimal():
            raise UsageError(f"{path} is a damaged agent: {name} belongs to no parameter")
        state.setdefault(int(index), {})[slot] = value
    return about, tensors, {"state": state, "param_groups": about.pop("optimizer")}


def require_agent(header: Mapping[str, Any], path: Path, algorithm: str) -> None:
    """Say what is wrong with a file that is not an agent of this kind.

    Raises:
        UsageError: it is not.
    """
    if "agent" not in header:
        raise UsageError(f"{path} holds no agent; KeyQN.save or kpagent train writes them")
    if header["agent"] != FORMAT:
        raise UsageError(f"{path} is an agent of format {header['agent']}; this version of kpagent reads format {FORMAT}")
    if header.get("algorithm") != algorithm:
        raise UsageError(f"{path} is an agent of {header.get('algorithm')}, not of {algorithm}")
    if "optimizer" not in header:
        raise UsageError(f"{path} is a damaged agent: its description lacks the optimizer")
