"""A crew of one: an actor and its replay in the learner's own process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kpagent.agents.exploration import ExplorationConfig
from kpagent.agents.option_actor import Experience, OptionActor, Weights
from kpagent.collect.frame_replay import FrameReplay
from kpagent.collect.replay import Segments


class SoloCrew:
    """One actor and one replay, in this process.

    Args:
        actor: plays.
        config: how long its rounds are, and how much is kept.
    """

    def __init__(self, actor: OptionActor, config: ExplorationConfig) -> None:
        self.actor, self.config = actor, config
        self.replay = new_replay(config, actor.network.state_shapes)

    def publish(self, weights: Weights) -> None:
        """Let the actor play and see with these weights from now on."""
        self.actor.take(weights)

    def gather(self, *, random: bool) -> list[Experience]:
        """One round."""
        experience = self.actor.play(self.config.round_length, random=random)
        experience.store(self.replay)
        return [experience.summary()]

    def sample(self, batch_size: int, length: int, generator: np.random.Generator) -> Segments:
        """Segments of its experience."""
        return self.replay.sample(batch_size, length, 0, generator)

    def pairs(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Frame pairs of its experience."""
        return self.replay.pairs(count, self.config.offset, generator)

    def close(self) -> None:
        """Close the environments."""
        self.actor.players.close()


def new_replay(
    config: ExplorationConfig, state_shapes: Mapping[str, tuple[int, ...]], capacity: int | None = None
) -> FrameReplay:
    """An empty replay for one actor's copies, which keeps all of `config.capacity`, or another number of interactions."""
    option = {"option": ((2,), np.int64)}
    size = config.network.image_size
    return FrameReplay(config.capacity if capacity is None else capacity, config.envs, size, state_shapes, option)
