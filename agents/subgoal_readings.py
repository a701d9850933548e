"""How a model of keyframes and a world that a planner acts in understand each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.envs.pushing.environment import Pushing
from kpagent.envs.pushing.puck_world import PuckWorld
from kpagent.envs.pushing.scene import WALL_HALF_LENGTH
from kpagent.envs.pushing.simulation import seen, to_image
from kpagent.errors import UsageError
from kpagent.evaluation.trajectories import fit_regression
from kpagent.subgoals.keyin import KeyIn


@dataclass(frozen=True)
class Reading:
    """Between frames, the codes of a model, and what a world sees."""

    read: Callable[[np.ndarray], Any]
    """A frame (H, W, 3) to what the model takes of one: the frame itself, or a code (D,)."""
    see: Callable[[np.ndarray], Tensor]
    """A frame, of now or of the goal, to what the world sees in it, (W,)."""
    see_code: Callable[[Tensor], Tensor]
    """Codes (..., D) to what the world would see, (..., W), NaN where it would see nothing."""
    paint: Callable[[Tensor], np.ndarray] | None = None
    """Codes (M, D) to frames, of a model that paints."""


def read_frames(model: KeyIn, world: PuckWorld) -> Reading:
    """Of a model of frames: the puck is found by its colour in keyframes that it paints, as in the paper (section 10)."""
    return Reading(lambda frame: frame, world.see, lambda codes: world.see_painted(model.render(codes)), model.render)


def read_keypoints(see: Callable[[np.ndarray], Tensor]) -> Reading:
    """Of a model of keypoints, in a world that sees the very same keypoints: nothing is known of the domain.

    Args:
        see: a frame to coordinates (x, y) of keypoints, K after K, (2 K,).
    """
    return Reading(see, see, lambda codes: codes)


def read_puck(see: Callable[[np.ndarray], Tensor], world: PuckWorld, frames: np.ndarray) -> Reading:
    """Of a model of keypoints, in a world that sees the puck: by linear regression from all keypoints to the puck's place.

    The place that is learned from is that of the puck's colour, which `PuckWorld` goes by too: no labels.

    Args:
        see: as of `read_keypoints`.
        world: what the servoing sees.
        frames: (N, H, W, 3) uint8 to learn the regression from, a few hundred of many episodes.

    Raises:
        UsageError: the puck is seen in fewer than two of the frames.
    """
    wanted = np.stack([world.see(frame).numpy() for frame in frames])
    known = np.isfinite(wanted).all(axis=-1)
    if known.sum() < 2:
        raise UsageError("the puck is in fewer than two of the frames from which its keypoints are to be learned")
    codes = np.stack([see(frame).cpu().numpy() for frame in frames[known]])
    regression = fit_regression(codes, wanted[known, None])

    def see_code(codes: Tensor) -> Tensor:
        return torch.from_numpy(regression.predict(codes.cpu().numpy())[..., 0, :].astype(np.float32))

    return Reading(see, world.see, see_code)


def read_positions(env: gym.Env[Any, Any], world: PuckWorld) -> Reading:
    """Of a model of true positions, those of `envs.pushing.demonstrations.NAMES`: puck, hand, and the ends of the wall.

    All but the puck are where the environment has them; the puck is found by its colour, since the frame may be the goal's.

    Raises:
        UsageError: another environment than `kpagent/Pushing-v0`.
    """
    pushing = env.unwrapped
    if not isinstance(pushing, Pushing):
        raise UsageError(f"true positions are known of kpagent/Pushing-v0, not of {pushing}")

    def read(frame: np.ndarray) -> np.ndarray:
        simulation = pushing.simulation
        ends = to_image(simulation.scene.on_table([(-WALL_HALF_LENGTH, 0.0), (WALL_HALF_LENGTH, 0.0)]))
        hand = seen(simulation.hand, simulation.puck)[1]
        return np.concatenate([world.see(frame).numpy(), hand, *ends]).astype(np.float32)

    return Reading(read, world.see, lambda codes: codes[..., :2])
