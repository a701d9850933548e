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
    has_actions: bool = False
    """Whether its sequences have actions."""


def _basketball(count: int, seed: int, image_size: int) -> SequenceSource:
    return Basketball(count, seed, BasketballConfig(image_size=image_size))


def _brownian(count: int, seed: int, image_size: int) -> SequenceSource:
    return Brownian(count, seed, BrownianConfig(image_size=image_size))


def _pushing(count: int, seed: int, image_size: int) -> SequenceSource:
    from kpagent.envs.pushing.demonstrations import DemonstrationConfig, Demonstrations

    return Demonstrations(count, seed, DemonstrationConfig(image_size=image_size))


SYNTHETIC = {
    "basketball": Synthetic(_basketball, 5_000),
    "brownian": Synthetic(_brownian, 10_000),
    "pushing": Synthetic(_pushing, 5_000, has_actions=True),
}
"""By name. Those of pushing take MuJoCo, and half a minute for a thousand."""
