"""Frames as they come (any size, uint8 RGB) to frames as a model takes them (its own size)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames at `size` × `size`, by averaging areas where that makes them smaller, linearly where larger.

    It is, to the bit, what `ale_py.AtariVectorEnv(img_height=size, img_width=size)` does to its screens.

    Args:
        frames: (..., H, W, 3) uint8.
        size: height and width of the result.

    Returns:
        (..., size, size, 3) uint8; `frames` itself where they have that size already.

    Raises:
        TypeError: not uint8.
        ValueError: not (..., H, W, 3).
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise TypeError(f"frames must be uint8 arrays, not {getattr(frames, 'dtype', type(frames).__name__)}")
    if frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape[-3:]:
        raise ValueError(f"frames must be RGB, (..., H, W, 3), not {frames.shape}")
    height, width = frames.shape[-3:-1]
    if (height, width) == (size, size):
        return frames
    smaller = height >= size and width >= size
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    out = np.empty((*frames.shape[:-3], size, size, 3), np.uint8)
    for index in np.ndindex(frames.shape[:-3]):
        out[index] = cv2.resize(frames[index], (size, size), interpolation=method)
    return out


def to_images(frames: Any, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Frames as a model's input: (N, 3, size, size) in [0, 1], float32, channels last in memory.

    Args:
        frames: (N, H, W, 3) uint8, an array or a tensor.
        size: the model's image size.
        device: where the images go; they travel as bytes.

    Raises:
        TypeError: not uint8.
        ValueError: not (N, H, W, 3).
    """
    if isinstance(frames, Tensor) and frames.shape[1:] == (size, size, 3) and frames.dtype == torch.uint8:
        images = frames
    else:
        array = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
        images = torch.from_numpy(np.ascontiguousarray(resize(array, size)))
    if images.ndim != 4:
        raise ValueError(f"frames must be a batch, (N, H, W, 3), not {tuple(images.shape)}")
    # A permuted NHWC tensor is an NCHW tensor in channels-last memory: nothing is copied here but the bytes to floats.
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
