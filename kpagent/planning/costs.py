"""How far what is seen is from a goal: by the place of a thing's colour, by keypoints, or in an embedding.

Each of these is called with what is seen, with any leading axes, and one goal of the same kind, and gives as many distances
as there are leading axes to take. A distance that cannot be known is +inf, which no planner takes for near.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints


@dataclass(frozen=True)
class KeypointDistance:
    """Mean distance of keypoints from where the goal has them: the default, for it knows nothing of the domain.

    A keypoint that is present in both counts with the Euclidean distance of its two places, one that is present in one alone
    with `missing`, one that is absent from both with nothing. Of presence between 0 and 1, the lesser of the two counts as
    present in both, the rest as present in one alone; so a distance is 0 where nothing differs.
    """

    missing: float = 1.0
    """Distance of a keypoint that is present in one alone; 2 is the picture's width."""
    weights: tuple[float, ...] | None = None
    """Of each keypoint, where some matter more than others; they are divided by their sum."""

    def __post_init__(self) -> None:
        if not 0 <= self.missing < float("inf"):
            raise UsageError(f"missing must be at least 0; got {self.missing!r}")
        if self.weights is not None and not (all(0 <= one < float("inf") for one in self.weights) and sum(self.weights) > 0):
            raise UsageError(f"weights must be at least 0, and some above; got {self.weights!r}")

    def __call__(self, seen: Keypoints, goal: Keypoints) -> Tensor:
        """Distances (...), in coordinates.

        Args:
            seen: (..., K).
            goal: (K).

        Raises:
            ValueError: another number of keypoints.
        """
        places, presence, wanted, certain = (
            torch.as_tensor(one) for one in (seen.xy, seen.presence, goal.xy, goal.presence)
        )
        if wanted.shape != places.shape[-2:] or (self.weights is not None and len(self.weights) != len(wanted)):
            weighted = "" if self.weights is None else f", {len(self.weights)} weights"
            raise ValueError(f"keypoints differ: {seen.num_keypoints} are seen, the goal is {tuple(wanted.shape)}{weighted}")
        apart, missing = (places - wanted).norm(dim=-1), (presence - certain).abs()
        parts = torch.minimum(presence, certain) * apart + missing * self.missing
        if self.weights is None:
            return parts.mean(dim=-1)
        weights = torch.tensor(self.weights).to(parts)
        return (parts * weights).sum(dim=-1) / weights.sum()


@dataclass(frozen=True)
class ColorDistance:
    """Distance between the places of a thing of one colour in two frames, as in the paper (KeyIn section 10)."""

    color: tuple[int, int, int]
    """RGB of the thing, from 0 to 255."""
    tolerance: float = 40.0
    """How far a pixel's RGB may be from it, Euclidean. Frames that a model paints need more than a simulator's."""

    def __post_init__(self) -> None:
        if len(self.color) != 3 or not all(0 <= one <= 255 for one in self.color):
            raise UsageError(f"color must be three numbers from 0 to 255; got {self.color!r}")
        if not 0 <= self.tolerance < 442:
            raise UsageError(f"tolerance must be at least 0 and below 442; got {self.tolerance!r}")

    def __call__(self, seen: Any, goal: Any) -> np.ndarray:
        """Distances (...), in coordinates; +inf where the thing is hidden in what is seen, or in the goal.

        Args:
            seen: (..., H, W, 3) uint8.
            goal: (H', W', 3) uint8.

        Raises:
            TypeError: not uint8.
            ValueError: no RGB frames.
        """
        apart = color_center(seen, self.color, self.tolerance) - color_center(goal, self.color, self.tolerance)
        return np.nan_to_num(np.linalg.norm(apart, axis=-1), nan=np.inf)


@dataclass(frozen=True)
class EmbeddingDistance:
    """Euclidean distance in an embedding."""

    embed: Callable[[Any], Any] | None = None
    """Makes (..., D) of what is seen (...), and (D,) of a goal; None where they are embeddings already."""

    def __call__(self, seen: Any, goal: Any) -> Tensor:
        """Distances (...).

        Raises:
            ValueError: the two differ in D.
        """
        one, other = (torch.as_tensor(x if self.embed is None else self.embed(x)).float() for x in (seen, goal))
        if other.shape != one.shape[-1:]:
            raise ValueError(f"the goal's embedding must be {tuple(one.shape[-1:])}, not {tuple(other.shape)}")
        return (one - other).norm(dim=-1)


def color_center(frames: Any, color: tuple[int, int, int], tolerance: float) -> np.ndarray:
    """Median place of the pixels that are near a colour, along x and along y.

    Args:
        frames: (..., H, W, 3) uint8, an array or a tensor.
        color: RGB.
        tolerance: Euclidean distance in RGB, at most.

    Returns:
        (..., 2) float64 coordinates (x, y) in (-1, 1); NaN where no pixel is near.

    Raises:
        TypeError: not uint8.
        ValueError: no RGB frames.
    """
    pixels = frames.cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if pixels.dtype != np.uint8:
        raise TypeError(f"frames must be uint8, not {pixels.dtype}")
    if pixels.ndim < 3 or pixels.shape[-1] != 3 or 0 in pixels.shape[-3:]:
        raise ValueError(f"frames must be (..., H, W, 3), not {pixels.shape}")
    near = np.square(pixels.astype(np.int32) - np.array(color, np.int32)).sum(axis=-1) <= tolerance**2
    return np.stack([_median(near.sum(axis=-2)), _median(near.sum(axis=-1))], axis=-1)


def _median(counts: np.ndarray) -> np.ndarray:
    """Coordinate of the median of pixels that are counted by cell (..., cells), NaN without any."""
    size = counts.shape[-1]
    below = counts.cumsum(axis=-1)
    total = below[..., -1:]
    middle = [(below <= rank).sum(axis=-1) for rank in ((total - 1) // 2, total // 2)]
    return np.where(total[..., 0] > 0, (2 * (middle[0] + middle[1]) / 2 + 1) / size - 1, np.nan)
