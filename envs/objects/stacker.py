"""The objects of the stacker, from the simulator's geoms through the camera."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.envs.camera import to_image

GEOMS = {
    "box_0": "box0",
    "box_1": "box1",
    "box_2": "box2",
    "box_3": "box3",
    "upper_arm": "upper_arm",
    "middle_arm": "middle_arm",
    "lower_arm": "lower_arm",
    "hand": "hand",
}
"""The simulator's name of each object's geom."""


def stacker_objects(env: gym.Env[Any, Any]) -> dict[str, np.ndarray]:
    """Where the centres of the boxes and of the arm's links are in the frames that the stacker renders.

    The hand is its palm, the 3 cm behind the fingers. The target is no object: it stands still and is see-through to all
    others. Nothing that lies in front of an object makes it absent; all move in one plane and hardly overlap.

    Args:
        env: an environment made by `kpagent.envs.stacker.make_stacker`, wrapped or not, after `reset`.

    Returns:
        `box_0` to `box_3`, `upper_arm`, `middle_arm`, `lower_arm` and `hand`, each (2,) float64: (x, y) in [-1, 1], NaN
        where the centre is outside of the picture.
    """
    stacker: Any = env.unwrapped
    physics, render = stacker.physics, stacker.render_kwargs
    centres = np.array([physics.named.data.geom_xpos[geom] for geom in GEOMS.values()])
    camera = render["camera_id"]
    xy = to_image(physics, centres, camera, render["width"] / render["height"])
    xy[(np.abs(xy) > 1).any(-1)] = np.nan
    return dict(zip(GEOMS, xy, strict=True))
