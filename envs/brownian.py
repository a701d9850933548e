"""Structured Brownian motion: a ball that keeps its direction for six to eight frames, then turns (KeyIn section 4.1.1).

The paper's set: binary frames of 32×32; the number of frames between two turns and the new direction are chance, all between
is fixed by them. So the frames in which the ball turns are the keyframes of a sequence, and they are known. What the paper
leaves open is chosen here: the ball moves at one speed; it never touches the edge, because a direction is drawn from those
that keep the ball inside until the next turn; it turns by at least 30 degrees, since less cannot be seen at this size; the
first direction begins with the first frame. A sequence has 35 frames: five to look at and thirty to foretell.

Measured over 50,000 sequences with the defaults: 4.2 keyframes in a sequence; the direction turns by 124 degrees in the
mean. They take 15 s of one busy core, 11 s to simulate and 4 s to draw.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.errors import UsageError

NAMES = ("ball",)
"""The point whose true position is known."""

_BLOCK = 128
_ANGLES = 360


@dataclass(frozen=True)
class BrownianConfig:
    """The motion and the picture. One unit of length is half the frame."""

    frames: int = 35
    """Of each sequence."""
    image_size: int = 32
    """Height and width of the frames."""
    radius: float = 0.125
    """Of the ball."""
    speed: float = 0.12
    """Way of the ball from one frame to the next."""
    shortest: int = 6
    """Least number of frames from one turn to the next."""
    longest: int = 8
    """Greatest number of frames from one turn to the next."""
    least_turn: float = 30.0
    """Degrees by which the direction changes at least."""

    def __post_init__(self) -> None:
        checks = {
            "frames": ("from 1 to 10,000", isinstance(self.frames, int) and 1 <= self.frames <= 10_000),
            "image_size": ("from 16 to 512", isinstance(self.image_size, int) and 16 <= self.image_size <= 512),
            "radius": ("above 0 and at most 0.5", 0 < self.radius <= 0.5),
            "speed": ("above 0 and at most 1", 0 < self.speed <= 1),
            "shortest": ("from 1 to 1000", isinstance(self.shortest, int) and 1 <= self.shortest <= 1000),
            "longest": ("from shortest to 1000", isinstance(self.longest, int) and self.shortest <= self.longest <= 1000),
            "least_turn": ("above 0 and at most 90", 0 < self.least_turn <= 90),
        }
        for name, (wanted, holds) in checks.items():
            if not holds:
                raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")
        # From the middle only ways towards a corner may be this long.
        room = 1.2 * (1 - self.radius)
        if self.speed * self.longest > room:
            raise UsageError(f"speed times longest must be at most {room:.3g}, or the ball cannot stay inside")


class Brownian:
    """Sequences of the ball, for `sequence_making.write_sequences`: frames, true positions and keyframes.

    Args:
        count: sequences. A test set has another seed.
        seed: with the number of a sequence, it decides everything.
        config: the motion and the picture.

    Raises:
        UsageError: a count below 1 or a seed below 0.
    """

    def __init__(self, count: int, seed: int = 0, config: BrownianConfig | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(f"count must be at least 1 and seed at least 0; got {count} and {seed}")
        self.count, self.seed, self.config = count, seed, config or BrownianConfig()

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        return Provenance("brownian", "brownian", dataclasses.asdict(self.config), seed=self.seed, truth_names=NAMES)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Sequences `start` to `stop`."""
        positions, keyframes = simulate(self.config, self.seed, stop - start, start=start)
        for truth, turns in zip(positions, keyframes, strict=True):
            yield FrameSequence(draw(truth, self.config), truth=truth[:, None], keyframes=turns)


def simulate(config: BrownianConfig, seed: int, count: int, *, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the ball, and where it turns; a sequence depends on the seed and its own number alone.

    Args:
        config: the motion.
        seed: at least 0.
        count: N sequences.
        start: number of the first.

    Returns:
        (N, T, 2) float32 in [-1, 1], and (N, T) bool, true in a frame in which the ball has another direction behind it
        than before it. The first and the last frame have one direction only and are never true.
    """
    positions = np.empty((count, config.frames, 2), np.float32)
    keyframes = np.zeros((count, config.frames), bool)
    legs = -(-config.frames // config.shortest)
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        numbers = range(start + first, start + last)
        draws = np.stack([np.random.default_rng((seed, number)).random((legs + 1, 3)) for number in numbers])
        positions[first:last], keyframes[first:last] = _walk(config, draws)
    return positions, keyframes


def draw(positions: np.ndarray, config: BrownianConfig | None = None) -> np.ndarray:
    """Frames of a white disc on black, without soft edges: a pixel is white where its centre lies in the disc.

    Args:
        positions: (..., 2) in [-1, 1].
        config: the picture.

    Returns:
        (..., S, S, 3) uint8, 0 or 255.

    Raises:
        ValueError: another shape.
    """
    config = config or BrownianConfig()
    if positions.shape[-1:] != (2,):
        raise ValueError(f"positions must be (..., 2), not {positions.shape}")
    centres = ((2 * np.arange(config.image_size) + 1) / config.image_size - 1).astype(np.float32)
    across, down = ((centres - positions[..., axis, None].astype(np.float32)) ** 2 for axis in (0, 1))
    covered = down[..., :, None] + across[..., None, :] <= np.float32(config.radius**2)
    return np.repeat((covered * np.uint8(255))[..., None], 3, axis=-1)


def _walk(config: BrownianConfig, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, T, 2) and turns (N, T) from draws (N, legs + 1, 3), uniform in [0, 1)."""
    every = np.arange(len(draws))
    room = 1 - config.radius
    place = (2 * draws[:, 0, :2] - 1) * room
    positions = np.empty((len(draws), config.frames + config.longest + 1, 2))
    turns = np.zeros(positions.shape[:2], bool)
    positions[:, 0] = place
    filled = np.zeros(len(draws), np.int64)
    heading = np.full(len(draws), np.nan)
    spread = config.longest - config.shortest + 1
    steps = np.arange(1, config.longest + 1)
    for leg in range(1, draws.shape[1]):
        length = config.shortest + (draws[:, leg, 0] * spread).astype(np.int64)
        angles = (np.arange(_ANGLES) + draws[:, leg, 1, None]) * (2 * math.pi / _ANGLES)
        ways = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * config.speed
        ends = place[:, None] + ways * length[:, None, None]
        allowed = np.abs(ends).max(axis=-1) <= room
        turned = np.abs((angles - heading[:, None] + math.pi) % (2 * math.pi) - math.pi)
        # Nothing was turned away from at the beginning, where the heading is not a number.
        allowed &= ~(turned < math.radians(config.least_turn))
        rank = (draws[:, leg, 2] * allowed.sum(axis=1)).astype(np.int64)
        chosen = (np.cumsum(allowed, axis=1) > rank[:, None]).argmax(axis=1)
        way = ways[every, chosen]
        heading = angles[every, chosen]
        # The walk of a sequence that is finished goes on where nobody looks.
        begin = np.minimum(filled, config.frames)
        reached = place[:, None] + way[:, None] * np.minimum(steps, length[:, None])[..., None]
        positions[every[:, None], begin[:, None] + steps] = reached
        turns[every, begin] = begin > 0
        filled = begin + length
        place = reached[:, -1]
    turns[:, config.frames - 1 :] = False
    return positions[:, : config.frames], turns[:, : config.frames]
