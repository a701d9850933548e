"""Where the objects of an environment are: the truth that keypoints are measured against, one module a game.

Positions are those of the raw frame that the environment shows, no maximum over two. An object that is not on the screen is
absent: its place is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.envs.later_screens import HALF_WALL_ID, SECOND_ROOM_ID
from kpagent.envs.objects.breakout import breakout_objects
from kpagent.envs.objects.frostbite import frostbite_objects
from kpagent.envs.objects.montezuma_revenge import montezuma_revenge_objects
from kpagent.envs.objects.ms_pacman import ms_pacman_objects
from kpagent.envs.objects.pong import pong_objects
from kpagent.envs.objects.seaquest import seaquest_objects
from kpagent.envs.sliding_background import PONG_SLIDING_ID
from kpagent.envs.stacker import STACKER_ID
from kpagent.errors import UsageError

ATARI_OBJECTS: Mapping[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "ALE/Pong-v5": pong_objects,
    "ALE/Breakout-v5": breakout_objects,
    "ALE/Frostbite-v5": frostbite_objects,
    "ALE/MsPacman-v5": ms_pacman_objects,
    "ALE/Seaquest-v5": seaquest_objects,
    "ALE/MontezumaRevenge-v5": montezuma_revenge_objects,
}
"""The function that reads each Atari game's objects from its RAM, (..., 128) uint8, by environment id."""

ATARI_VARIANTS: Mapping[str, str] = {
    PONG_SLIDING_ID: "ALE/Pong-v5",
    HALF_WALL_ID: "ALE/Breakout-v5",
    SECOND_ROOM_ID: "ALE/MontezumaRevenge-v5",
}
"""The game whose emulator runs inside each of kpagent's own environments of Atari, by id."""


def locate_objects(env: gym.Env[Any, Any]) -> dict[str, np.ndarray]:
    """Where the objects of an environment are in the frame that it shows now.

    Args:
        env: an environment with ground truth, wrapped or not, after `reset`.

    Returns:
        (2,) float64 (x, y) in [-1, 1] for each object, always the same ones in the same order; NaN for one that is not on
        the screen.

    Raises:
        UsageError: there is no ground truth for this environment.
    """
    inner: Any = env.unwrapped
    env_id = inner.spec.id if inner.spec is not None else type(inner).__name__
    game = ATARI_VARIANTS.get(env_id, env_id)
    if game in ATARI_OBJECTS:
        return ATARI_OBJECTS[game](inner.ale.getRAM())
    if env_id == STACKER_ID:
        from kpagent.envs.objects.stacker import stacker_objects

        return stacker_objects(env)
    variants = [variant for variant, of in ATARI_VARIANTS.items() if of in ATARI_OBJECTS]
    known = ", ".join(sorted([*ATARI_OBJECTS, *variants, STACKER_ID]))
    raise UsageError(f"no ground truth for {env_id}; there is for {known}")
