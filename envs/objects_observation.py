"""The true positions of objects in place of keypoints: what an agent could do if perception had no faults."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from kpagent.envs.keypoint_observation import keypoint_space
from kpagent.envs.objects import locate_objects


class ObjectObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment seen through the true positions of its objects.

    The observation is that of `KeypointObservation` without features, a Dict of float32:

    - `xy`: (K, 2) in [-1, 1], x to the right, y down; zero for an object that is not on the screen;
    - `presence`: (K,), 1 for an object on the screen, else 0.

    Args:
        env: an environment with ground truth, as `locate_objects` needs; its own observations are not looked at.

    Attributes:
        objects: the K names, in the order of the observation.

    Raises:
        UsageError: there is no ground truth for this environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        # Before the first reset positions mean nothing, and may be divisions by zero; the names are there already.
        with np.errstate(all="ignore"):
            self.objects = tuple(locate_objects(env))
        self.observation_space = keypoint_space(len(self.objects), 0, False)

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """The objects as they are now; `observation` is not looked at."""
        xy = np.array(list(locate_objects(self.env).values()), np.float32)
        present = ~np.isnan(xy[:, 0])
        return {"xy": np.where(present[:, None], xy, np.float32(0)), "presence": present.astype(np.float32)}
