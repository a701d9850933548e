"""What the tests of subgoals share: small configurations, and dots that turn at known frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpagent.subgoals.configuration import CodecConfig, KeyInConfig

SIZE = 8
FRAMES = CodecConfig(size=6, image_size=SIZE, filters=(4, 6))
CODES = CodecConfig("codes", 2)
SMALL: dict[str, Any] = {
    "given": 2,
    "frames": 6,
    "keyframes": 3,
    "longest": 4,
    "units": 8,
    "layers": 2,
    "latent": 3,
    "shortest_segment": 2,
    "longest_segment": 4,
    "start_units": 9,
    "segment_latent": 2,
}


def config(codec: CodecConfig = CODES, **changes: Any) -> KeyInConfig:
    return KeyInConfig(codec, **(SMALL | changes))


def turning(count: int, length: int, seed: int = 0, runs: tuple[int, int] = (2, 4)) -> tuple[np.ndarray, np.ndarray]:
    """(count, length, 2) float32 places of a dot that goes straight for `runs` frames; (count, length) where it turns."""
    draws = np.random.default_rng(seed)
    places, turns = np.zeros((count, length, 2), np.float32), np.zeros((count, length), bool)
    for b in range(count):
        place, left, angle = draws.uniform(-0.5, 0.5, 2), 0, draws.uniform(0, 2 * np.pi)
        for t in range(length):
            if not left:
                turns[b, t] = t > 0
                left = int(draws.integers(runs[0], runs[1] + 1))
                angle += draws.choice((-1, 1)) * draws.uniform(np.pi / 3, 5 * np.pi / 6)
            places[b, t] = place
            place, left = place + 0.15 * np.array([np.cos(angle), np.sin(angle)]), left - 1
    return places, turns


def drawn(places: np.ndarray, size: int = SIZE) -> np.ndarray:
    """(..., size, size, 3) uint8: a soft white dot at each place of (..., 2)."""
    cells = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(cells, cells)
    centres = places[..., None, None, :] / 2
    spots = np.exp(-((x - centres[..., 0]) ** 2 + (y - centres[..., 1]) ** 2) / (2 * 0.2**2))
    return np.repeat((255 * spots)[..., None], 3, axis=-1).round().astype(np.uint8)
