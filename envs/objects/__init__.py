"""Where the objects of an environment are: the truth that keypoints are measured against, one module a game.

Positions are those of the raw frame that the environment shows, no maximum over two. An object that is not on the screen is
absent: its place is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kpagent.envs.objects.breakout import breakout_objects
from kpagent.envs.objects.pong import pong_objects

ATARI_OBJECTS: Mapping[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "ALE/Pong-v5": pong_objects,
    "ALE/Breakout-v5": breakout_objects,
}
"""The function that reads each Atari game's objects from its RAM, (..., 128) uint8, by environment id."""
