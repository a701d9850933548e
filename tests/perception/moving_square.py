"""What the tests of detectors share: small frames with a square that moves, and models that have seen some."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kpagent.keypoints import Keypoints
from kpagent.perception.conditional import ConditionalConfig
from kpagent.perception.detector import DetectorConfig, KeypointDetector
from kpagent.perception.landmarks import LandmarkConfig
from kpagent.perception.methods import KINDS
from kpagent.perception.transporter import TransporterConfig

PROVENANCE = {"env": "ALE/Pong-v5", "frames": 24_000, "figures": {"ball": 0.05}}
SHAPE: dict[str, Any] = {"num_keypoints": 3, "image_size": 32, "filters": (4, 6, 8), "strides": (1, 2, 1)}
SMALL: dict[str, DetectorConfig] = {
    "transporter": TransporterConfig(**SHAPE),
    "jakab": ConditionalConfig(**SHAPE),
    "zhang": LandmarkConfig(**SHAPE),
}


def frame(size: int, x: int, y: int) -> np.ndarray:
    """A bright square at (x, y) on a dim slope."""
    picture = np.zeros((size, size, 3), np.uint8)
    picture[..., 2] = np.arange(size) * 60 // size
    picture[y : y + size // 8, x : x + size // 8] = (250, 200, 100)
    return picture


def pairs(size: int, count: int) -> dict[str, np.ndarray]:
    """`count` source and target frames whose squares are apart."""
    source = [frame(size, size * (i + 1) // (count + 3), size // 4) for i in range(count)]
    target = [frame(size, size * (i + 2) // (count + 3), size // 2) for i in range(count)]
    return {"source": np.stack(source), "target": np.stack(target)}


def kind_of(config: DetectorConfig) -> type[KeypointDetector]:
    """The kind of model that has such a configuration."""
    return next(kind for kind in KINDS.values() if kind.config_type is type(config))


def lived_in(config: DetectorConfig) -> Any:
    """A model whose weights and running statistics are none of those that it starts with."""
    model = kind_of(config)(config, PROVENANCE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            model.loss(pairs(config.image_size, 2))
    return model


def assert_same_keypoints(found: Keypoints, expected: Keypoints, tolerance: float = 0.0) -> None:
    """All three parts agree to an absolute tolerance."""
    for name in ("xy", "presence", "features"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=tolerance, rtol=0, msg=name)
