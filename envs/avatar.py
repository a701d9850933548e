"""Where the avatar of a game is, told beside the frames that an agent sees: what exploration is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kpagent.envs.frame_players import SmallFrames
from kpagent.envs.making import make_env
from kpagent.envs.objects import locate_objects
from kpagent.envs.vec_env import LARGEST_SEED, GymnasiumVecEnv
from kpagent.errors import UsageError

AVATAR = "player"
"""What the ground truth calls it."""
ROOM_CELLS: Mapping[str, int] = {"ALE/MontezumaRevenge-v5": 3}
"""The byte of the RAM with the number of the room, for games that have rooms."""


class AvatarInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose `info` of each step says where its avatar was in the frame that was acted on.

    - `avatar`: (2,) float64 (x, y) in [-1, 1], NaN where it was not on the screen;
    - `room`: int, which room the frame showed; 0 in a game without rooms.

    Args:
        env: an environment with ground truth, as `locate_objects` needs, and a `player` in it.

    Raises:
        UsageError: there is no ground truth for this environment, or no player in it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        # Before the first reset positions mean nothing, and may be divisions by zero; the names are there already.
        with np.errstate(all="ignore"):
            objects = locate_objects(env)
        name = env.unwrapped.spec.id if env.unwrapped.spec is not None else str(env)
        if AVATAR not in objects:
            raise UsageError(f"the ground truth of {name} has no {AVATAR}, only {', '.join(objects)}")
        self._room_cell = ROOM_CELLS.get(name)
        self._now: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; nothing has been acted on yet, and `info` is as it was."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._now = self._look()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One interaction."""
        before = self._now
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._now = self._look()
        return observation, reward, terminated, truncated, info | before

    def _look(self) -> dict[str, Any]:
        inner: Any = self.env.unwrapped
        room = 0 if self._room_cell is None else int(inner.ale.getRAM()[self._room_cell])
        return {"avatar": locate_objects(self.env)[AVATAR], "room": room}


def make_avatar_players(env_id: str, num_envs: int, size: int, *, seed: int) -> GymnasiumVecEnv:
    """As `make_frame_players`, with what `AvatarInfo` tells in every info.

    `AtariVectorEnv` shows no RAM, so these copies of an Atari game step one after the other, and begin without idle frames;
    frames and actions are the same.

    Args:
        env_id: of an environment with ground truth.
        num_envs: number of copies.
        size: S of the frames.
        seed: of the first `reset`; copy i has `seed + i`.

    Returns:
        Observations are (N, S, S, 3) uint8.

    Raises:
        UsageError: no such environment, no player in its ground truth, fewer than one copy, or a seed out of range.
    """
    if num_envs < 1:
        raise UsageError(f"the number of environments must be at least 1, not {num_envs}")
    if not 0 <= seed <= LARGEST_SEED - num_envs:
        raise UsageError(f"the seed must be from 0 to {LARGEST_SEED - num_envs}, not {seed}")
    makers = [partial(_make, env_id, size)] * num_envs
    players = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), life_loss=True)
    players.seed(seed)
    return players


def _make(env_id: str, size: int) -> gym.Env[Any, Any]:
    return SmallFrames(AvatarInfo(make_env(env_id)), size)
