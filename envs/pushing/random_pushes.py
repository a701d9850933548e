"""Random pushes as sequences of frames with every action, to learn dynamics from.

Demonstrations do not do for this: of their actions two are averaged, and the demonstrator's hand never strays. Here the hand
begins near the puck and is moved by forces that are alike from one action to the next, in part towards the puck.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.envs.pushing.demonstrations import NAMES
from kpagent.envs.pushing.scene import HAND_RADIUS, PUCK_RADIUS, TABLE, WALL_HALF_LENGTH, Scene, draw_scene, wall_distance
from kpagent.envs.pushing.simulation import LARGEST, Simulation, places, require_mujoco, seen, to_image
from kpagent.errors import UsageError
from kpagent.fields import require, require_types

_SPACE = 0.02
_NEAR = 0.45
_TRIES = 1_000


@dataclass(frozen=True)
class PushConfig:
    """How the hand is moved, and the picture."""

    frames: int = 24
    """Of each sequence, one more than actions; an action is one of the environment."""
    correlation: float = 0.7
    """Of the random part of an action with that of the action before."""
    noise: float = 0.8
    """Standard deviation of the random part."""
    pull: float = 1.0
    """Largest force towards the puck, which is drawn from 0 up for each sequence; half as much presses the hand down, which
    else would mostly be above the puck."""
    image_size: int = 64
    """Height and width of the frames."""

    def __post_init__(self) -> None:
        require_types(self)
        checks = {
            "frames must be from 2 to 1000": 2 <= self.frames <= 1000,
            "correlation must be at least 0 and below 1": 0 <= self.correlation < 1,
            "noise must be above 0": self.noise > 0,
            "pull must be at least 0": self.pull >= 0,
            f"image_size must be from 16 to {LARGEST}": 16 <= self.image_size <= LARGEST,
        }
        require(self, checks)


class RandomPushes:
    """Random pushes for `sequence_making.write_sequences`: frames, actions and true positions, those of demonstrations.

    Args:
        count: sequences. A test set has another seed.
        seed: with the number of a sequence, it decides everything.
        config: how the hand is moved.

    Raises:
        UsageError: a count below 1, a seed below 0, or MuJoCo is not installed.
    """

    def __init__(self, count: int, seed: int = 0, config: PushConfig | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(f"count must be at least 1 and seed at least 0; got {count} and {seed}")
        require_mujoco()
        self.count, self.seed, self.config = count, seed, config or PushConfig()

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        config = asdict(self.config) | {"mujoco": importlib.metadata.version("mujoco")}
        return Provenance("pushes", "pushes", config, seed=self.seed, truth_names=NAMES)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Sequences `start` to `stop`."""
        simulation = Simulation(draw_scene(np.random.default_rng(0)))
        try:
            for number in range(start, stop):
                yield self._push(simulation, np.random.default_rng((self.seed, number)))
        finally:
            simulation.close()

    def _push(self, simulation: Simulation, generator: np.random.Generator) -> FrameSequence:
        config = self.config
        scene = draw_scene(generator)
        simulation.begin(scene)
        state = simulation.get_state()
        state[1:3] = _beside(scene, generator)
        simulation.set_state(state)
        pull, noise = generator.uniform(0, config.pull), generator.normal(size=3)
        frames, states = [simulation.render(config.image_size, show_goal=False)], [state]
        actions = np.zeros((config.frames, 3), np.float32)
        for number in range(config.frames - 1):
            way = simulation.puck - simulation.hand[:2]
            force = config.noise * noise
            force[:2] += pull * way / max(float(np.linalg.norm(way)), 1e-9)
            force[2] -= pull / 2
            actions[number] = np.clip(force, -1, 1)
            simulation.step(actions[number])
            states.append(simulation.get_state())
            frames.append(simulation.render(config.image_size, show_goal=False))
            noise = config.correlation * noise + (1 - config.correlation**2) ** 0.5 * generator.normal(size=3)
        moving = seen(*places(np.stack(states)))
        ends = to_image(scene.on_table([(-WALL_HALF_LENGTH, 0.0), (WALL_HALF_LENGTH, 0.0)]))
        truth = np.concatenate([moving, np.broadcast_to(ends, moving.shape)], axis=1)
        return FrameSequence(np.stack(frames), actions, truth=truth)


def _beside(scene: Scene, generator: np.random.Generator) -> np.ndarray:
    """A place (2,) for the hand near the puck, where it touches neither puck nor wall nor border."""
    nearest = PUCK_RADIUS + HAND_RADIUS + _SPACE
    for _ in range(_TRIES):
        angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(nearest, _NEAR)
        place = np.array(scene.puck) + length * np.array([np.cos(angle), np.sin(angle)])
        on_table = np.abs(place).max() <= TABLE - HAND_RADIUS - _SPACE
        if on_table and wall_distance(scene, place) >= HAND_RADIUS + _SPACE:
            return place
    raise RuntimeError(f"no place for the hand in {_TRIES} tries")
