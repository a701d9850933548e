"""Where points of a DeepMind Control scene are seen in its camera's image."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_image(physics: Any, places: np.ndarray, camera: int, aspect: float = 1.0) -> np.ndarray:
    """Image coordinates of points in front of a camera.

    Args:
        physics: dm_control's `Physics`.
        places: (P, 3) in the world, in metres.
        camera: its number.
        aspect: width of the image by its height.

    Returns:
        (P, 2), x to the right and y down, from -1 to 1 within the image.
    """
    # The columns of the matrix are the camera's right, up and backward.
    axes = physics.data.cam_xmat[camera].reshape(3, 3)
    right, up, backward = ((places - physics.data.cam_xpos[camera]) @ axes).T
    half_height = -backward * np.tan(np.radians(physics.model.cam_fovy[camera]) / 2)
    return np.stack([right / (half_height * aspect), -up / half_height], axis=-1)
