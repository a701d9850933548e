"""Perception beside a model of keyframes: whose keypoints are its codes, and how they lie in one file with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kpagent.dynamics import struct_vrnn
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.files import load_tensors
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import detector_from_tensors
from kpagent.perception.zoo import find

Perception = KeypointDetector | StructVRNN
"""A model whose keypoints can be codes."""

PREFIX = "perception."
"""How the names of its tensors begin, in the file of another model."""
CHUNK = 256
"""Frames that are encoded at once."""


def load_perception(name_or_path: str | Path, device: torch.device | str = "cpu") -> Perception:
    """A trained model of keypoints, ready to encode.

    Args:
        name_or_path: a name of the zoo, or the path of a file that `kpagent pretrain` or `kpagent dynamics train` wrote.
        device: where to put it.

    Raises:
        UsageError: neither, a file that is damaged, altered or of another kind, or a Struct-VRNN without keypoints.
    """
    path = find(name_or_path)
    return perception_from_tensors(*load_tensors(path), path).to(device)


def perception_from_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | Path) -> Perception:
    """The model that tensors and header describe, in evaluation mode on the CPU.

    Args:
        tensors: by name.
        header: as the model's `pack` gave it.
        path: where they came from, for messages.

    Raises:
        UsageError: of no such kind, or tensors that do not fit.
    """
    if header.get("model") != struct_vrnn.KIND:
        return detector_from_tensors(tensors, header, path)
    model = StructVRNN.from_tensors(tensors, header, path)
    if not model.config.code.has_keypoints:
        raise UsageError(f"{path} codes frames by vectors without structure: it has no keypoints to learn from")
    return model


def pack_beside(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], perception: Perception | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a model and its perception together, which `unpack_beside` takes apart."""
    if perception is None:
        return dict(tensors), dict(header)
    inner, inner_header = perception.pack()
    return {**tensors, **{PREFIX + name: value for name, value in inner.items()}}, {**header, "perception": inner_header}


def unpack_beside(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | Path
) -> tuple[dict[str, Tensor], Perception | None]:
    """The tensors of a model alone, and its perception, if it has one.

    Args:
        tensors: by name.
        header: as `pack_beside` gave it.
        path: where they came from, for messages.

    Raises:
        UsageError: the perception is of no such kind, or its tensors do not fit.
    """
    if "perception" not in header:
        return dict(tensors), None
    if not isinstance(header["perception"], dict):
        raise UsageError(f"{path} has no valid configuration of its perception model")
    inner = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    own = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    return own, perception_from_tensors(inner, header["perception"], path)


@torch.no_grad()
def coordinates(perception: Any, frames: Any) -> Tensor:
    """The coordinates (x, y) of keypoints, K after K, as codes.

    Args:
        perception: anything with `encode`, as a perception model has it.
        frames: (N, H, W, 3) uint8.

    Returns:
        (N, 2 K) float32, on the model's device.
    """
    # What lies under keypoints is not wanted, and takes as long as they do.
    options = {"features": False} if isinstance(perception, KeypointDetector) else {}
    pieces = [frames[start : start + CHUNK] for start in range(0, len(frames), CHUNK)]
    return torch.cat([torch.as_tensor(perception.encode(piece, **options).xy).flatten(1) for piece in pieces])
