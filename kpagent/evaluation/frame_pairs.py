"""Frames of two sets of videos side by side, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FramePairs:
    """Pairs of frames, held as indices: many samples may be compared with one truth, which is not copied for them.

    Attributes:
        shape: the leading axes of both sets, broadcast against each other.
        first: (A, H, W, 3) uint8 frames.
        second: (B, H, W, 3) uint8 frames.
        first_index: (M,) which of `first` each pair has; M is the product of `shape`.
        second_index: (M,) which of `second`.
    """

    shape: tuple[int, ...]
    first: np.ndarray
    second: np.ndarray
    first_index: np.ndarray
    second_index: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, smallest_side: int) -> FramePairs:
        """Pair the frames of two sets of videos.

        Args:
            first: (..., H, W, 3) uint8.
            second: the same, its leading axes such as broadcast with those of `first`.
            smallest_side: what H and W must be at least.

        Raises:
            ValueError: not such frames, or they cannot be paired.
        """
        first, second = np.asarray(first), np.asarray(second)
        for frames in (first, second):
            if frames.ndim < 3 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                raise ValueError(f"frames must be (..., H, W, 3) of uint8, not {frames.shape} of {frames.dtype}")
        if first.shape[-3:] != second.shape[-3:]:
            raise ValueError(f"frames must be of one size, not {first.shape[-3:-1]} and {second.shape[-3:-1]}")
        if min(first.shape[-3:-1]) < smallest_side:
            raise ValueError(f"frames must be {smallest_side}x{smallest_side} at least, not {first.shape[-3:-1]}")
        try:
            shape = np.broadcast_shapes(first.shape[:-3], second.shape[:-3])
        except ValueError:
            raise ValueError(f"{first.shape[:-3]} videos cannot be paired with {second.shape[:-3]}") from None
        flat, index = [], []
        for frames in (first, second):
            leading = frames.shape[:-3]
            flat.append(frames.reshape(-1, *frames.shape[-3:]))
            index.append(np.broadcast_to(np.arange(len(flat[-1])).reshape(leading), shape).ravel())
        return cls(shape, flat[0], flat[1], index[0], index[1])

    def parts(self, length: int) -> Iterator[slice]:
        """Slices of the M pairs, `length` pairs each."""
        yield from (slice(start, start + length) for start in range(0, len(self.first_index), length))


def as_images(frames: np.ndarray, index: np.ndarray, device: torch.device | str) -> Tensor:
    """The chosen frames of (A, H, W, 3) uint8 as (len(index), 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(frames[index]).to(device).permute(0, 3, 1, 2).float() / 255
