"""The methods of learning keypoints by name: models of each, fresh or from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.files import load_tensors
from kpagent.perception.conditional import ConditionalGenerator
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.landmarks import LandmarkAutoencoder
from kpagent.perception.transporter import Transporter

KINDS: dict[str, type[KeypointDetector]] = {
    kind.kind: kind for kind in (Transporter, ConditionalGenerator, LandmarkAutoencoder)
}
"""By the name in the header of their weights."""
METHODS = (*KINDS, "pixels")
"""What can be trained: every kind, and the Transporter that moves pixels (Transporter Appendix D)."""


def load_detector(path: str | Path, device: torch.device | str = "cpu") -> KeypointDetector:
    """Read weights of any method, ready to encode.

    Raises:
        UsageError: no such file, damaged, altered, of no such method or another version, or tensors that do not fit.
    """
    return detector_from_tensors(*load_tensors(path), path).to(device)


def detector_from_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | Path) -> KeypointDetector:
    """The model of any method that tensors and header describe, as of `KeypointDetector.from_tensors`.

    Raises:
        UsageError: of no such method or another version, or tensors that do not fit.
    """
    kind = KINDS.get(str(header.get("model")))
    if kind is None:
        raise UsageError(f"{path} holds a {header.get('model')!r}, not one of {', '.join(KINDS)}")
    return kind.from_tensors(tensors, header, path)


def load_for_training(path: str | Path, seed: int = 0, **changes: Any) -> KeypointDetector:
    """The model in a weights file, to be trained on, on the CPU.

    Weights saved for inference only hold Φ and Ψ; what painted frames begins anew.

    Args:
        path: a weights file.
        seed: of the parameters that begin anew.
        changes: fields of its configuration that do not change the shape of a network, such as `align`.

    Raises:
        UsageError: as of `load_detector`, or a configuration that cannot be.
    """
    found = load_detector(path)
    _require_fields(found.kind, changes)
    config = dataclasses.replace(found.config, **changes)
    torch.manual_seed(seed)
    model = found.fresh(config)
    model.load_state_dict(model.state_dict() | found.state_dict())
    return model.train()


def new_detector(
    method: str, num_keypoints: int, *, preset: str = "fast", seed: int = 0, **changes: Any
) -> KeypointDetector:
    """A model to be trained, on the CPU.

    Args:
        method: one of `METHODS`.
        num_keypoints: K.
        preset: "fast" or "paper".
        seed: of the parameters; torch's global generator is seeded with it.
        changes: fields of the method's configuration.

    Raises:
        UsageError: no such method, or a configuration that cannot be.
    """
    if method not in METHODS:
        raise UsageError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if method == "pixels":
        method, changes = Transporter.kind, {"transport": "pixels"} | changes
    kind = KINDS[method]
    _require_fields(method, changes)
    config = getattr(kind.config_type, preset)(num_keypoints, **changes)
    torch.manual_seed(seed)
    return kind(config)


def method_of(model: KeypointDetector) -> str:
    """The name by which `new_detector` makes such a model."""
    moves_pixels = isinstance(model, Transporter) and model.config.transport == "pixels"
    return "pixels" if moves_pixels else model.kind


def _require_fields(kind: str, changes: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(KINDS[kind].config_type)}
    for name in changes:
        if name not in known:
            raise UsageError(f"the method {kind} has no {name}")
