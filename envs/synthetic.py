"""The synthetic datasets by name, as commands take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kpagent.collect.sequence_making import SequenceSource
from kpagent.envs.basketball import Basketball, BasketballConfig
from kpagent.envs.brownian import Brownian, BrownianConfig


@dataclass(frozen=True)
class Synthetic:
    """A dataset that is made from a seed."""

    make: Callable[[int, int, int], SequenceSource]
    """Of so many sequences, with this seed and this height and width of the frames."""
    sequences: int
    """As many as are a good number."""
    frames: int
    """Of each."""
    has_actions: bool = False
    """Whether its sequences have actions."""


def _basketball(count: int, seed: int, image_size: int) -> SequenceSource:
    return Basketball(count, seed, BasketballConfig(image_size=image_size))


def _brownian(count: int, seed: int, image_size: int) -> SequenceSource:
    return Brownian(count, seed, BrownianConfig(image_size=image_size))


def _pushing(count: int, seed: int, image_size: int) -> SequenceSource:
    from kpagent.envs.pushing.demonstrations import DemonstrationConfig, Demonstrations

    return Demonstrations(count, seed, DemonstrationConfig(image_size=image_size))


def _pushes(count: int, seed: int, image_size: int) -> SequenceSource:
    from kpagent.envs.pushing.random_pushes import PushConfig, RandomPushes

    return RandomPushes(count, seed, PushConfig(image_size=image_size))


def _motions(count: int, seed: int, image_size: int) -> SequenceSource:
    from kpagent.envs.walker_motions import MotionsConfig, WalkerMotions

    return WalkerMotions(count, seed, MotionsConfig(image_size=image_size))


SYNTHETIC = {
    "basketball": Synthetic(_basketball, 5_000, 50),
    "brownian": Synthetic(_brownian, 10_000, 35),
    "pushing": Synthetic(_pushing, 5_000, 31, has_actions=True),
    "pushes": Synthetic(_pushes, 5_000, 24, has_actions=True),
    "motions": Synthetic(_motions, 2_000, 20),
}
"""By name. Those of pushing take MuJoCo, and half a minute for a thousand; motions DeepMind Control, and three minutes."""
