"""Many futures of one state side by side, in the threads of MuJoCo: dynamics for a planner."""

from __future__ import annotations

import importlib

import numpy as np

from kpagent.envs.pushing.simulation import SUBSTEPS, Simulation, require_mujoco


class Rollouts:
    """What a simulation would do under sequences of actions; the simulation itself stays as it is.

    A rollout gives, to the bit, the states that `Simulation.step` would give. Two hundred sequences of eight actions take
    0.11 s of one busy core, 290,000 steps of physics in a second.

    Args:
        threads: that share the work.

    Raises:
        UsageError: MuJoCo is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        self._mujoco = require_mujoco()
        self._threads = threads
        self._pool = importlib.import_module("mujoco.rollout").Rollout(nthread=threads)

    def __call__(self, simulation: Simulation, actions: np.ndarray) -> np.ndarray:
        """Go on from where `simulation` is, in its scene.

        Args:
            simulation: what to begin with.
            actions: (B, T, 3); clipped to [-1, 1].

        Returns:
            (B, T, S) states, after each action; `simulation.places` reads them.

        Raises:
            ValueError: actions of another shape.
        """
        if actions.ndim != 3 or actions.shape[-1] != 3:
            raise ValueError(f"actions must be (B, T, 3), not {actions.shape}")
        control = np.repeat(np.clip(actions, -1, 1).astype(float), SUBSTEPS, axis=1)
        data = [self._mujoco.MjData(simulation.model) for _ in range(self._threads)]
        states, _ = self._pool.rollout(simulation.model, data, simulation.get_state(), control)
        return np.ascontiguousarray(states[:, SUBSTEPS - 1 :: SUBSTEPS])

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
