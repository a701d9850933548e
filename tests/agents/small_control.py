"""A control task and an agent for it that are small enough to learn in seconds, if not much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kpagent.agents.control_learning import ControlTraining
from kpagent.agents.keypoint_mpc import MPCConfig
from kpagent.agents.mpc_learning import MPCLearningConfig
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.motion_start import MotionStartConfig
from kpagent.training import TrainingConfig

CARTPOLE = "dm_control/cartpole-balance-v0"


def small_model(actions: int = 1) -> StructVRNNConfig:
    """Two keypoints, windows of 4 + 3 frames."""
    base = StructVRNNConfig.planning(2, actions)
    return StructVRNNConfig(
        replace(base.code, filters=(4, 8), extra_layers=0),
        replace(base.dynamics, observed=4, predicted=3, rnn_units=8, latent=2, posterior_units=8, prior_units=4),
    )


def small_learning(**changes: Any) -> MPCLearningConfig:
    """Two random episodes and some planned ones, of 10 interactions each."""
    training = ControlTraining(
        start=MotionStartConfig(steps=2, batch_size=4, sequences=4),
        code=TrainingConfig(steps=3, batch_size=2, precision="float32"),
        code_again=TrainingConfig(steps=2, batch_size=2, precision="float32"),
        code_length=3,
        world=TrainingConfig(batch_size=4, decay=1.0, precision="float32"),
    )
    values: dict[str, Any] = {
        "interactions": 45,
        "random": 20,
        "capacity": 35,
        "longest": 10,
        "first_updates": 4,
        "updates": 0.2,
        "updates_again": 2,
        "training": training,
        "planner": MPCConfig(horizon=3, candidates=8, rounds=2),
    }
    return MPCLearningConfig(**{**values, **changes})
