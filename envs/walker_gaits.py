"""What eight motions ask of the walker's joints, as angles over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

JOINTS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
"""Of the planar walker of DeepMind Control. A hip swings forward where its angle grows, a knee bends where it falls."""
MOTIONS = ("walk", "walk_back", "march", "limp", "hop", "squat", "kick", "flail")
"""The classes, in the order of their labels."""

_WANDERS = 3
"""Waves that make up a random motion of one joint."""


@dataclass(frozen=True)
class Gait:
    """One motion with all that is drawn for it. Angles in radians, time in seconds."""

    motion: str
    """One of `MOTIONS`."""
    frequency: float
    """Cycles a second."""
    size: float
    """Of the movement, as a share of the usual one."""
    phase: float
    """Of the first cycle at time 0, in radians."""
    lead: int
    """The leg that kicks or limps: 0 the right one, 1 the left one."""
    waves: tuple[tuple[tuple[float, float, float], ...], ...]
    """For each joint, (amplitude, frequency, phase) of slow waves that are added to its angle."""

    def targets(self, time: float) -> np.ndarray:
        """(6,) angles of `JOINTS` that are aimed at."""
        turn = 2 * math.pi * self.frequency * time + self.phase
        legs = _LEGS[self.motion](turn, self.size, self.lead)
        # Ankles keep the feet level, as far as they can.
        angles = np.array([angle for hip, knee in legs for angle in (hip, knee, min(max(-hip - knee, -0.7), 0.7))])
        return angles + [
            sum(high * math.sin(2 * math.pi * rate * time + start) for high, rate, start in waves) for waves in self.waves
        ]


def draw_gait(motion: str, generator: np.random.Generator) -> Gait:
    """A motion with a speed, a size, a phase, a leg and an unsteadiness of its own.

    Args:
        motion: one of `MOTIONS`.
        generator: what they are drawn with.
    """
    low, high = _FREQUENCIES[motion]
    waves = tuple(
        tuple(
            (float(generator.uniform(0.3, 1.0) * reach), float(generator.uniform(0.3, 1.8)), _angle(generator))
            for _ in range(_WANDERS)
        )
        for reach in (_FLAIL if motion == "flail" else (_UNSTEADY,) * len(JOINTS))
    )
    frequency, size = float(generator.uniform(low, high)), float(generator.uniform(0.5, 1.2))
    return Gait(motion, frequency, size, _angle(generator), int(generator.integers(2)), waves)


_FREQUENCIES = {
    "walk": (0.6, 1.1),
    "walk_back": (0.6, 1.1),
    "march": (0.6, 1.1),
    "limp": (0.6, 1.1),
    "hop": (1.2, 2.0),
    "squat": (0.4, 0.8),
    "kick": (0.6, 1.1),
    "flail": (1.0, 1.0),
}
_UNSTEADY = 0.15
_FLAIL = (0.55, 0.6, 0.3) * 2

_Legs = tuple[tuple[float, float], tuple[float, float]]
"""Hip and knee of the right leg and of the left one."""


def _walk(turn: float, size: float, lead: int) -> _Legs:
    return _stride(turn, size), _stride(turn + math.pi, size)


def _walk_back(turn: float, size: float, lead: int) -> _Legs:
    # The same postures in the opposite order: no single frame tells which it is.
    return _walk(-turn, size, lead)


def _march(turn: float, size: float, lead: int) -> _Legs:
    return _lift(turn, size), _lift(turn + math.pi, size)


def _limp(turn: float, size: float, lead: int) -> _Legs:
    stiff = 0.2 + 0.12 * size * math.sin(turn + math.pi), -0.15
    return _led(_stride(turn, size), stiff, lead)


def _hop(turn: float, size: float, lead: int) -> _Legs:
    # Quick to stretch and slow to bend, so that the feet leave the ground.
    return (_crouch(0.7 * size * (0.5 + 0.5 * math.sin(turn + 0.6 * math.sin(turn)))),) * 2


def _squat(turn: float, size: float, lead: int) -> _Legs:
    return (_crouch(0.7 * size * (0.5 + 0.5 * math.sin(turn))),) * 2


def _kick(turn: float, size: float, lead: int) -> _Legs:
    swing = math.sin(turn)
    return _led((0.45 + 0.6 * size * swing, -0.7 + 0.5 * swing), (0.15, -0.3), lead)


def _flail(turn: float, size: float, lead: int) -> _Legs:
    return ((0.4, -0.8),) * 2


def _stride(turn: float, size: float) -> tuple[float, float]:
    """One leg of a walk; the knee bends while the hip swings forward."""
    return 0.2 + 0.4 * size * math.sin(turn), -0.2 - 0.8 * size * max(0.0, math.cos(turn))


def _lift(turn: float, size: float) -> tuple[float, float]:
    high = size * max(0.0, math.sin(turn))
    return 0.1 + 0.9 * high, -0.2 - 1.2 * high


def _crouch(depth: float) -> tuple[float, float]:
    return 0.1 + depth, -0.2 - 2 * depth


def _led(leading: tuple[float, float], other: tuple[float, float], lead: int) -> _Legs:
    return (other, leading) if lead else (leading, other)


def _angle(generator: np.random.Generator) -> float:
    return float(generator.uniform(0, 2 * math.pi))


_LEGS: dict[str, Callable[[float, float, int], _Legs]] = {
    "walk": _walk,
    "walk_back": _walk_back,
    "march": _march,
    "limp": _limp,
    "hop": _hop,
    "squat": _squat,
    "kick": _kick,
    "flail": _flail,
}
