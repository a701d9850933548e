"""Planners for `kpagent/Pushing-v0`: with the simulator's dynamics as in the paper, or with learned ones of keypoints."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from kpagent.agents.keypoint_world import KeypointWorld, changed_keypoints
from kpagent.agents.subgoal_planner import SubgoalPlanner
from kpagent.agents.subgoal_readings import Reading, read_frames, read_keypoints, read_positions, read_puck
from kpagent.agents.subgoal_sources import KeyInSubgoals
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.pushing.demonstrations import NAMES, DemonstrationConfig, Demonstrations
from kpagent.envs.pushing.environment import Pushing
from kpagent.envs.pushing.puck_world import PuckWorld
from kpagent.errors import UsageError
from kpagent.planning.servoing import ServoingConfig
from kpagent.subgoals.keyframe_model import KeyframeModel
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.perceived import coordinates

DEMONSTRATIONS = 12
"""From whose frames it is learned which keypoints tell where the puck is."""


def puck_planner(
    env: gym.Env[Any, Any],
    model: KeyIn | None = None,
    *,
    config: ServoingConfig | None = None,
    threads: int = 1,
    seed: int = 0,
) -> SubgoalPlanner:
    """A planner with the simulator's dynamics, to which a goal is where the puck is (KeyIn section 10).

    Args:
        env: `kpagent/Pushing-v0`.
        model: of keyframes; straight to the goal without.
        config: of the servoing; KeyIn Table 3's, if not given.
        threads: of the simulator.
        seed: of all that is drawn.

    Raises:
        UsageError: another environment, or a model of codes that are neither true positions nor keypoints of a perception
            model that it has with it.
    """
    world = PuckWorld(env, threads=threads)
    subgoals = None if model is None else KeyInSubgoals(model, puck_reading(env, model, world))
    return SubgoalPlanner(env, world, subgoals=subgoals, config=config, seed=seed)


def keypoint_planner(
    env: gym.Env[Any, Any],
    dynamics: StructVRNN,
    model: KeyIn | None = None,
    *,
    config: ServoingConfig | None = None,
    seed: int = 0,
) -> SubgoalPlanner:
    """A planner that sees keypoints alone, and imagines what follows from actions.

    Args:
        env: any whose actions the dynamics know.
        dynamics: with actions.
        model: of keyframes, on the very keypoints of the dynamics; straight to the goal without.
        config: of the servoing; KeyIn Table 3's, if not given.
        seed: of all that is drawn.

    Raises:
        UsageError: dynamics or a model that do not fit.
    """
    world = KeypointWorld(dynamics, env, seed=seed)
    subgoals = None
    if model is not None:
        if model.config.codec.kind != "codes" or model.config.codec.size != 2 * dynamics.num_keypoints:
            raise UsageError(
                f"the dynamics have {dynamics.num_keypoints} keypoints, and the model of keyframes has not learned on these"
            )
        subgoals = KeyInSubgoals(model, read_keypoints(world.see))
    return SubgoalPlanner(env, world, subgoals=subgoals, distance=changed_keypoints, config=config, seed=seed)


def puck_reading(env: gym.Env[Any, Any], model: KeyframeModel, world: PuckWorld) -> Reading:
    """How a model's keyframes tell where the puck is.

    Raises:
        UsageError: as of `puck_planner`.
    """
    if isinstance(model, KeyIn) and model.config.codec.kind == "frames":
        return read_frames(model, world)
    perception = model.perception
    if perception is not None:
        pushing = env.unwrapped
        assert isinstance(pushing, Pushing)
        frames = demonstration_frames(pushing.image_size)

        def see(frame: np.ndarray) -> Tensor:
            return coordinates(perception, frame[None])[0].cpu()

        return read_puck(see, world, frames)
    if model.config.codec.size != 2 * len(NAMES):
        raise UsageError(
            f"the model learns from codes of {model.config.codec.size} numbers and has no perception model with it: nobody"
            " knows what they are in frames"
        )
    return read_positions(env, world)


def demonstration_frames(image_size: int, count: int = DEMONSTRATIONS) -> np.ndarray:
    """Frames (N, S, S, 3) uint8 of demonstrations of seed 0, every one of them."""
    source = Demonstrations(count, 0, DemonstrationConfig(image_size=image_size))
    return np.concatenate([sequence.frames for sequence in source.make(0, count)])
