"""What a planner sees of pushing, and expects of actions: the place of the puck, by its colour and by the simulator."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.envs.pushing.environment import Pushing
from kpagent.envs.pushing.rollouts import Rollouts
from kpagent.envs.pushing.simulation import PUCK_COLOR, Simulation, places, seen
from kpagent.errors import UsageError
from kpagent.planning.costs import color_center

TOLERANCE = 40.0
"""How far a pixel's RGB may be from the puck's, in the simulator's frames."""
PAINTED_TOLERANCE = 60.0
"""The same in frames that a model paints, which are blurred. Of others, half hand and half table is nearest, 63 away."""


class PuckWorld:
    """The world of `SubgoalPlanner` for `kpagent/Pushing-v0`, as in the paper: true dynamics, the puck by its colour.

    Args:
        env: `kpagent/Pushing-v0`, wrapped or not; it is read, never acted in.
        threads: of the simulator.

    Raises:
        UsageError: another environment.
    """

    def __init__(self, env: gym.Env[Any, Any], *, threads: int = 1) -> None:
        if not isinstance(env.unwrapped, Pushing):
            raise UsageError(f"the simulator's dynamics are those of kpagent/Pushing-v0, not of {env.unwrapped}")
        self._env: Pushing = env.unwrapped
        self._rollouts = Rollouts(threads)

    def see(self, frame: np.ndarray) -> Tensor:
        """Where the puck is seen in a frame (H, W, 3) uint8: (2,) float32 coordinates, NaN where it is hidden."""
        return torch.from_numpy(color_center(frame, PUCK_COLOR, TOLERANCE).astype(np.float32))

    def see_painted(self, frames: np.ndarray) -> Tensor:
        """The same in frames (..., H, W, 3) that a model painted: (..., 2)."""
        return torch.from_numpy(color_center(frames, PUCK_COLOR, PAINTED_TOLERANCE).astype(np.float32))

    def observe(self, frame: np.ndarray, action: np.ndarray | None) -> Simulation:
        """The simulation, which is where the environment is."""
        return self._env.simulation

    def foretell(self, state: Simulation, actions: np.ndarray) -> Tensor:
        """Where the puck would be seen after each of the actions (N, T, 3): (N, T, 2) float32."""
        after = self._rollouts(state, actions)
        return torch.from_numpy(seen(*places(after))[..., 0, :])

    def close(self) -> None:
        """End the threads."""
        self._rollouts.close()
