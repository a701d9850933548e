"""What the tests of the dynamics share: small configurations, and sequences of squares that move."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig

SIZE = 16
CODE: dict[str, Any] = {"num_keypoints": 3, "image_size": SIZE, "filters": (4, 6)}
DYNAMICS: dict[str, Any] = {"observed": 3, "predicted": 2, "samples": 4, "latent": 3}
UNITS: dict[str, Any] = {"prior_units": 5, "posterior_units": 7, "rnn_units": 6}


def code_config(**changes: Any) -> CodeConfig:
    return CodeConfig(**(CODE | changes))


def dynamics_config(**changes: Any) -> DynamicsConfig:
    return DynamicsConfig(**(DYNAMICS | UNITS | changes))


def config(code: dict[str, Any] | None = None, **dynamics: Any) -> StructVRNNConfig:
    return StructVRNNConfig(code_config(**(code or {})), dynamics_config(**dynamics))


def drawn(count: int, length: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """(count, length, size, size, 3): a soft spot goes its own way over a slope, and turns back at the borders."""
    draws = np.random.default_rng(seed)
    side = 0.7 * size
    start, speed = draws.uniform(0, side, (count, 1, 2)), draws.uniform(-1.5, 1.5, (count, 1, 2))
    way = (start + np.arange(length)[:, None] * speed) % (2 * side)
    centres = 0.15 * size + np.minimum(way, 2 * side - way)[..., None, None, :]
    cells = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1)
    spots = np.exp(-((cells - centres) ** 2).sum(axis=-1) / (2 * (size / 10) ** 2))[..., None]
    slope = np.arange(size)[:, None] * (0, 0, 60 / size)
    return (slope + spots * (np.array([250, 200, 100]) - slope)).round().astype(np.uint8)
