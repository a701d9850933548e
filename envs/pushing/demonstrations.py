"""Demonstrations of pushing as sequences of frames, to learn keyframes from.

Measured with the defaults on one busy core without a GPU: 34 demonstrations in a second of its time, 10 ms of physics and
19 ms of drawing each, so 50,000 in 25 minutes. Of those tried 12% are dropped: half because no six pushes lead around the
wall, the others because the hand begins so far from the puck that the first push takes more than six frames. Over 1,300
demonstrations the first push took 5.5 frames in the mean, the others 4.2 to 4.5, all six 27.2; 49% went by one end of the
wall, 51% by the other. The puck ends 0.015 from the goal in the mean, 0.025 at most.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.envs.pushing.demonstrator import Demonstration, demonstrate
from kpagent.envs.pushing.scene import SUCCESS, WALL_HALF_LENGTH, draw_scene
from kpagent.envs.pushing.simulation import LARGEST, Simulation, places, require_mujoco, seen, to_image
from kpagent.envs.pushing.subgoals import PUSHES
from kpagent.errors import UsageError

NAMES = ("puck", "hand", "wall_start", "wall_end")
"""Points whose true positions are known: where puck and hand are seen, and the ends of the wall."""
SIDES = ("wall_start", "wall_end")
"""Classes of demonstrations: the end of the wall that the puck passes by."""


@dataclass(frozen=True)
class DemonstrationConfig:
    """What is kept of demonstrations, and the picture."""

    frames: int = 31
    """Of each sequence: the first, and thirty that follow. Six pushes must fit into them; after the last the hand rests."""
    shortest: int = 4
    """Frames that each push takes at least."""
    longest: int = 6
    """Frames that each push takes at most."""
    tolerance: float = 0.1
    """How far the puck may be from the goal at the end, in units of the table."""
    image_size: int = 64
    """Height and width of the frames."""
    show_goal: bool = False
    """Draw the goal as a disc on the table. Without, the goal cannot be known from the first frame, as in the paper."""

    def __post_init__(self) -> None:
        least = PUSHES * self.shortest + 1 if isinstance(self.shortest, int) else 0
        checks = {
            "shortest": ("from 1 to 100", isinstance(self.shortest, int) and 1 <= self.shortest <= 100),
            "longest": ("from shortest to 100", isinstance(self.longest, int) and self.shortest <= self.longest <= 100),
            "frames": (f"from {least} to 1000", isinstance(self.frames, int) and least <= self.frames <= 1000),
            "tolerance": (f"above 0 and at most {SUCCESS}", 0 < self.tolerance <= SUCCESS),
            "image_size": (f"from 16 to {LARGEST}", isinstance(self.image_size, int) and 16 <= self.image_size <= LARGEST),
        }
        for name, (wanted, holds) in checks.items():
            if not holds:
                raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")


class Demonstrations:
    """Demonstrations for `sequence_making.write_sequences`: frames, actions, true positions, keyframes, side of the wall.

    Those that fail are dropped, and the next with the same number takes their place: a demonstration depends on the seed and
    its own number alone.

    Args:
        count: demonstrations. A test set has another seed.
        seed: with the number of a demonstration, it decides everything.
        config: what is kept.

    Raises:
        UsageError: a count below 1, a seed below 0, or MuJoCo is not installed.
    """

    def __init__(self, count: int, seed: int = 0, config: DemonstrationConfig | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(f"count must be at least 1 and seed at least 0; got {count} and {seed}")
        require_mujoco()
        self.count, self.seed, self.config = count, seed, config or DemonstrationConfig()

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        # Another release of the simulator may give other numbers in the last places, which contacts make larger.
        config = dataclasses.asdict(self.config) | {"mujoco": importlib.metadata.version("mujoco")}
        return Provenance("pushing", "pushing", config, seed=self.seed, truth_names=NAMES, label_names=SIDES)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Demonstrations `start` to `stop`."""
        simulation = Simulation(draw_scene(np.random.default_rng(0)))
        try:
            for number in range(start, stop):
                demonstration = self._demonstrate(simulation, number)
                frames = np.stack([self._draw(simulation, state) for state in demonstration.states])
                yield FrameSequence(
                    frames,
                    demonstration.actions,
                    truth=locate(demonstration),
                    label=demonstration.route.side,
                    keyframes=demonstration.keyframes,
                )
        finally:
            simulation.close()

    def demonstration(self, number: int) -> Demonstration:
        """One demonstration without its frames: its scene is a task that can be solved."""
        return self._demonstrate(Simulation(draw_scene(np.random.default_rng(0))), number)

    def _demonstrate(self, simulation: Simulation, number: int) -> Demonstration:
        for attempt in itertools.count():
            demonstration = demonstrate(
                simulation,
                np.random.default_rng((self.seed, number, attempt)),
                frames=self.config.frames,
                shortest=self.config.shortest,
                longest=self.config.longest,
                tolerance=self.config.tolerance,
            )
            if demonstration is not None:
                return demonstration
        raise AssertionError("unreachable")

    def _draw(self, simulation: Simulation, state: np.ndarray) -> np.ndarray:
        simulation.set_state(state)
        return simulation.render(self.config.image_size, show_goal=self.config.show_goal)


def locate(demonstration: Demonstration) -> np.ndarray:
    """(T, 4, 2) float32 coordinates of `NAMES` in the frames of a demonstration, in [-1, 1]."""
    scene = demonstration.scene
    ends = to_image(scene.on_table([(-WALL_HALF_LENGTH, 0.0), (WALL_HALF_LENGTH, 0.0)]))
    moving = seen(*places(demonstration.states))
    return np.concatenate([moving, np.broadcast_to(ends, moving.shape)], axis=1)
