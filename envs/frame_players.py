"""Copies of an environment seen as small RGB frames, for agents that learn their own perception."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from kpagent.envs.atari import make_atari_vector
from kpagent.envs.making import is_image, make_env, require_registered
from kpagent.envs.vec_env import LARGEST_SEED, GymnasiumVecEnv
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout, resize


class SmallFrames(gym.ObservationWrapper[np.ndarray, Any, Any], gym.utils.RecordConstructorArgs):
    """The frame of an environment as small square RGB.

    Args:
        env: with an image observation, or one that renders `rgb_array`.
        size: S, height and width.

    Raises:
        UsageError: the environment shows no frames.
    """

    def __init__(self, env: gym.Env[Any, Any], size: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        super().__init__(env)
        self.size = size
        self._layout = FrameLayout.of(env.observation_space) if is_image(env.observation_space) else None
        if self._layout is None and env.render_mode != "rgb_array":
            name = env.spec.id if env.spec is not None else str(env)
            raise UsageError(f"{name} shows no frames: neither its observation nor its rendering is an image")
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """(S, S, 3) uint8."""
        frame = self.env.render() if self._layout is None else self._layout.to_rgb(np.asarray(observation)[None])[0]
        return resize(np.asarray(frame)[None], self.size)[0]


def make_frame_players(
    env_id: str, num_envs: int, size: int, *, seed: int | None = None, threads: int = 0
) -> GymnasiumVecEnv:
    """Many copies of an environment, seen as small frames; the loss of a life ends a trajectory.

    Atari is played as by `make_players`, its frames shrunk by the emulators' own threads. Any other environment is made by
    `make_env`, one copy after the other.

    Args:
        env_id: as for `make_env`.
        num_envs: number of copies.
        size: S of the frames.
        seed: of the first `reset`; copy i has `seed + i`. Drawn without.
        threads: of Atari's emulators; 0 takes as many as there are cores.

    Returns:
        Observations are (N, 1, S, S, 3) or (N, S, S, 3) uint8.

    Raises:
        UsageError: no such environment, no frames, actions that are not discrete, fewer than one copy, or a seed out of
            range.
    """
    require_registered(env_id)
    if num_envs < 1:
        raise UsageError(f"the number of environments must be at least 1, not {num_envs}")
    if seed is not None and not 0 <= seed <= LARGEST_SEED - num_envs:
        raise UsageError(f"the seed must be from 0 to {LARGEST_SEED - num_envs}, not {seed}")
    env: VectorEnv[Any, Any, Any]
    if env_id.startswith("ALE/"):
        sized = {"img_height": size, "img_width": size, "num_threads": threads}
        env = make_atari_vector(env_id, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **sized)
    else:
        env = SyncVectorEnv([partial(_small, env_id, size)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    if not isinstance(env.single_action_space, spaces.Discrete):
        raise UsageError(f"{env_id} has no numbered actions, which options choose among; it has {env.single_action_space}")
    players = GymnasiumVecEnv(env, life_loss=True)
    if seed is not None:
        players.seed(seed)
    return players


def _small(env_id: str, size: int) -> gym.Env[Any, Any]:
    return SmallFrames(make_env(env_id), size)
