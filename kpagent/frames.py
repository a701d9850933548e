"""Frames as they come (any size, uint8 RGB) to frames as a model takes them (its own size)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.errors import UsageError

SMALLEST_SIDE = 16


@dataclass(frozen=True)
class FrameLayout:
    """How the frames of an image observation lie in memory, so that the newest of them can be had as RGB.

    An axis of 16 or more is a height or a width, a shorter one counts channels or stacked frames; on top of that:

    | shape | understood as |
    |---|---|
    | (H, W) | grey |
    | (H, W, C), (C, H, W) with C of 1 or 3 | grey or RGB, also where three grey frames were stacked |
    | (H, W, N), N another multiple of 3 | N / 3 RGB frames (`VecFrameStack` of Stable-Baselines3) |
    | (H, W, N), any other N | N grey frames (the same) |
    | (N, H, W), N no multiple of 3 | N grey frames (`AtariVectorEnv`, `FrameStackObservation`) |
    | (S, H, W, C), (S, C, H, W) with C of 1 or 3 | S grey or RGB frames (`FrameStackObservation`) |

    The newest frame of a stack is its last. Everything else is refused, (N, H, W) with N of 6, 9, 12 or 15 too: it may be
    N grey frames or N / 3 of RGB.

    Attributes:
        shape: of one observation, without any batch axis.
        channels: where the axis of channels, or of channels and frames in one, lies, once a stack's own axis is gone.
        stacked: whether the first axis counts frames and nothing else.
    """

    shape: tuple[int, ...]
    channels: Literal["none", "first", "last"]
    stacked: bool

    @classmethod
    def of(cls, space: gym.Space[Any]) -> FrameLayout:
        """The layout of the observations of `space`.

        Raises:
            UsageError: they cannot be understood as frames; the message says why.
        """
        if not isinstance(space, gym.spaces.Box):
            raise UsageError(f"the observation is a {type(space).__name__} space, not a Box of frames")
        shape = space.shape
        if len(shape) not in (2, 3, 4) or sum(side >= SMALLEST_SIDE for side in shape) < 2:
            smallest = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
            raise UsageError(f"the observation has shape {shape}, not that of frames of {smallest} or more")
        if space.dtype != np.uint8:
            cure = "leave out what scales them, or turn them back with (255 * frame).astype(numpy.uint8)"
            raise UsageError(f"the observation is {space.dtype} where frames are uint8 from 0 to 255: {cure}")
        if len(shape) == 2:
            return cls(shape, "none", stacked=False)
        first, last = shape[-3] < SMALLEST_SIDE, shape[-1] < SMALLEST_SIDE
        if first == last or shape[-2] < SMALLEST_SIDE:
            raise UsageError(f"the observation has shape {shape}, in which height and width cannot be told from the rest")
        count = shape[-3] if first else shape[-1]
        if len(shape) == 4 and count not in (1, 3):
            raise UsageError(f"the observation has shape {shape}: a stack of frames with {count} channels, not 1 or 3")
        if first and count > 3 and count % 3 == 0:
            doubt = f"{count} grey frames or {count // 3} of RGB: stack frames on an axis of their own, or channels last"
            raise UsageError(f"the observation has shape {shape}, which may be {doubt}")
        return cls(shape, "first" if first else "last", stacked=len(shape) == 4)

    def to_rgb(self, observation: np.ndarray) -> np.ndarray:
        """The newest frame of each observation, a view wherever NumPy can make one (it may be read-only).

        Args:
            observation: uint8, any batch axes and then `shape`.

        Returns:
            (..., H, W, 3) uint8.

        Raises:
            TypeError: not uint8.
            ValueError: does not end in `shape`.
        """
        if observation.dtype != np.uint8:
            raise TypeError(f"frames must be uint8 arrays, not {observation.dtype}")
        if observation.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"an observation must end in {self.shape}, not {observation.shape}")
        frame = observation[..., -1, :, :, :] if self.stacked else observation
        if self.channels == "first":
            frame = np.moveaxis(frame, -3, -1)
        elif self.channels == "none":
            frame = frame[..., None]
        if frame.shape[-1] % 3 == 0:
            return frame[..., -3:]
        return np.broadcast_to(frame[..., -1:], (*frame.shape[:-1], 3))


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
    """Frames as images: (N, 3, size, size) in [0, 1], float32, channels last in memory.

    Args:
        frames: (N, H, W, 3) uint8, an array or a tensor.
        size: the model's image size.
        device: where the images go; they travel as bytes.

    Raises:
        TypeError: not uint8.
        ValueError: not (N, H, W, 3).
    """
    array = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
    # torch warns of arrays that cannot be written to, such as Ray's.
    resized = np.require(resize(array, size), requirements=["C", "W"])
    if resized.ndim != 4:
        raise ValueError(f"frames must be a batch, (N, H, W, 3), not {resized.shape}")
    # A permuted NHWC tensor is an NCHW tensor in channels-last memory: nothing is copied here but the bytes to floats.
    return torch.from_numpy(resized).to(device).permute(0, 3, 1, 2).float() / 255


def to_cells(frames: Any, size: int, patch: int, device: torch.device | str = "cpu") -> Tensor:
    """What `fold_patches` makes of `to_images`, in less time: bytes are rearranged, not floats, and by NumPy.

    Args:
        frames: (N, H, W, 3) uint8, an array or a tensor.
        size: the model's image size.
        patch: height and width of the blocks; it divides `size`.
        device: where the cells go.

    Returns:
        (N, 3 * patch², size / patch, size / patch) in [0, 1], float32, channels last in memory.

    Raises:
        TypeError: not uint8.
        ValueError: not (N, H, W, 3).
    """
    array = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
    resized = resize(array, size)
    if resized.ndim != 4:
        raise ValueError(f"frames must be a batch, (N, H, W, 3), not {resized.shape}")
    count, cells = len(resized), size // patch
    blocks = resized.reshape(count, cells, patch, cells, patch * 3).swapaxes(2, 3)
    tensor = torch.from_numpy(np.require(blocks, requirements=["C", "W"])).to(device).float() / 255
    return tensor.view(count, cells, cells, 3 * patch**2).permute(0, 3, 1, 2)


def fold_patches(images: Tensor, patch: int) -> Tensor:
    """Each patch × patch block of pixels as the channels of one cell, row by row, pixel by pixel, colour by colour.

    As `torch.nn.functional.pixel_unshuffle`, with the channels in the order in which they lie in channels-last memory.

    Args:
        images: (N, C, H, W); `patch` divides H and W.
        patch: height and width of the blocks.

    Returns:
        (N, C * patch², H / patch, W / patch), channels last in memory.
    """
    count, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(count, height // patch, patch, width // patch, patch * channels)
    return rows.transpose(2, 3).reshape(count, height // patch, width // patch, channels * patch**2).permute(0, 3, 1, 2)


def unfold_patches(cells: Tensor, patch: int) -> Tensor:
    """The inverse of `fold_patches`: (N, C * patch², H, W) to (N, C, H * patch, W * patch)."""
    count, channels, height, width = cells.shape
    channels //= patch**2
    rows = cells.permute(0, 2, 3, 1).reshape(count, height, width, patch, patch * channels).transpose(2, 3)
    return rows.reshape(count, height * patch, width * patch, channels).permute(0, 3, 1, 2)
