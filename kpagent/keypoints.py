"""Keypoints: the type that travels through the whole framework, and its geometry.

Coordinates are (x, y), x to the right and y down, each in [-1, 1], where -1 and +1 are the outer *edges* of the image:
the centre of column i of W lies at (2i + 1) / W - 1. One place in the world therefore has one coordinate at every
resolution, which grids that put -1 and +1 on the centres of the outermost pixels do not give.

Everything here is a pure function of tensors, differentiable where its result is continuous. Shapes end in the axes that
a function works on; any number of leading axes is a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Keypoints:
    """K places in an image, how sure the detector is that each is there, and what it looks like.

    Attributes:
        xy: (..., K, 2) coordinates (x, y) in [-1, 1].
        presence: (..., K) in [0, 1]; ones from a model without a notion of presence.
        features: (..., K, D) appearance under each keypoint; D = 0 from a model without features.

    All three are tensors, or all three NumPy arrays, with the same leading axes.

    Raises:
        ValueError: shapes do not fit together.
    """

    xy: Any
    presence: Any
    features: Any

    def __post_init__(self) -> None:
        if self.xy.shape[-1:] != (2,) or self.xy.ndim < 2:
            raise ValueError(f"xy must be (..., K, 2), not {tuple(self.xy.shape)}")
        leading = tuple(self.xy.shape[:-1])
        if tuple(self.presence.shape) != leading:
            raise ValueError(f"presence must be {leading}, as xy without its last axis, not {tuple(self.presence.shape)}")
        if tuple(self.features.shape[:-1]) != leading:
            raise ValueError(f"features must be {leading} + (D,), not {tuple(self.features.shape)}")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return int(self.xy.shape[-2])

    @property
    def feature_dim(self) -> int:
        """D."""
        return int(self.features.shape[-1])

    def __getitem__(self, index: Any) -> Keypoints:
        """The keypoints at `index` of the leading axes."""
        return Keypoints(self.xy[index], self.presence[index], self.features[index])

    def numpy(self) -> Keypoints:
        """The same as float32 NumPy arrays."""
        arrays = (np.asarray(v.detach().float().cpu() if isinstance(v, Tensor) else v, np.float32) for v in self._fields())
        return Keypoints(*arrays)

    def flatten(self) -> Any:
        """(..., K * (3 + D)): xy, presence and features of each keypoint, one keypoint after the other."""
        joined: Any
        if isinstance(self.xy, Tensor):
            joined = torch.cat([self.xy, self.presence.unsqueeze(-1), self.features], dim=-1)
        else:
            joined = np.concatenate([self.xy, self.presence[..., None], self.features], axis=-1)
        return joined.reshape(*joined.shape[:-2], -1)

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def cell_centres(size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Coordinates (size,) of the centres of `size` equal cells that fill [-1, 1]; not to be written to."""
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    return _cell_centres(size, torch.device(device or "cpu"), dtype or torch.get_default_dtype())


@functools.lru_cache(maxsize=256)
def _cell_centres(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return (2 * torch.arange(size, device=device, dtype=dtype) + 1) / size - 1


def marginal_expectation(logits: Tensor) -> Tensor:
    """Expected place under the softmax of each map's marginals (Transporter, after Jakab and Gupta et al. 2018).

    Each map is averaged over one axis; the softmax of the other axis is a distribution over columns (x) or rows (y).

    Args:
        logits: (..., K, H, W), any real numbers.

    Returns:
        (..., K, 2) coordinates (x, y) in (-1, 1).
    """
    _require_rank(logits, 3, "logits", "(..., K, H, W)")
    columns = cell_centres(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    rows = cell_centres(logits.shape[-2], device=logits.device, dtype=logits.dtype)
    x = (logits.mean(dim=-2).softmax(dim=-1) * columns).sum(dim=-1)
    y = (logits.mean(dim=-1).softmax(dim=-1) * rows).sum(dim=-1)
    return torch.stack([x, y], dim=-1)


def joint_expectation(logits: Tensor) -> Tensor:
    """Expected place under the softmax over all cells of each map.

    Args:
        logits: (..., K, H, W), any real numbers.

    Returns:
        (..., K, 2) coordinates (x, y) in (-1, 1).
    """
    _require_rank(logits, 3, "logits", "(..., K, H, W)")
    return _expectation(logits.flatten(-2).softmax(dim=-1).view(logits.shape))


def map_expectation(maps: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Expected place under each map divided by its sum (Struct-VRNN Eq. S1, S2).

    Args:
        maps: (..., K, H, W), non-negative.
        epsilon: added to every cell, so that an empty map has its place at the centre.

    Returns:
        (..., K, 2) coordinates (x, y) in (-1, 1).
    """
    _require_rank(maps, 3, "maps", "(..., K, H, W)")
    maps = maps + epsilon
    return _expectation(maps / maps.sum(dim=(-2, -1), keepdim=True))


def mean_intensity(maps: Tensor) -> Tensor:
    """Mean of each map over its cells, the scale of a keypoint (Struct-VRNN Eq. S3): (..., K, H, W) to (..., K)."""
    _require_rank(maps, 3, "maps", "(..., K, H, W)")
    return maps.mean(dim=(-2, -1))


def gaussian_maps(xy: Tensor, height: int, width: int, std: float) -> Tensor:
    """Isotropic Gaussians exp(-d² / (2 std²)) around each keypoint (H of Transporter Eq. 1), highest value at most 1.

    Args:
        xy: (..., K, 2) coordinates in [-1, 1].
        height: H of the maps.
        width: W of the maps.
        std: standard deviation in coordinate units. The authors' released exp(-d² / σ²) with σ = 0.1 is std = 0.1 / √2.

    Returns:
        (..., K, H, W) in [0, 1].
    """
    _require_rank(xy, 2, "xy", "(..., K, 2)")
    if xy.shape[-1] != 2:
        raise ValueError(f"xy must be (..., K, 2), not {tuple(xy.shape)}")
    if std <= 0:
        raise ValueError(f"std must be positive, not {std}")
    columns = cell_centres(width, device=xy.device, dtype=xy.dtype)
    rows = cell_centres(height, device=xy.device, dtype=xy.dtype)
    along_x = torch.exp(-((xy[..., 0:1] - columns) ** 2) / (2 * std**2))
    along_y = torch.exp(-((xy[..., 1:2] - rows) ** 2) / (2 * std**2))
    return along_y.unsqueeze(-1) * along_x.unsqueeze(-2)


def scaled_gaussian_maps(xy: Tensor, scale: Tensor, height: int, width: int, std_cells: float = 1.5) -> Tensor:
    """Gaussians of a width given in map cells, each multiplied by its keypoint's scale μ (Struct-VRNN Eq. S4).

    Args:
        xy: (..., K, 2) coordinates in [-1, 1].
        scale: (..., K), μ.
        height: H of the maps.
        width: W of the maps; height and width must agree, since one width in cells must mean one width in coordinates.
        std_cells: standard deviation in cells.

    Returns:
        (..., K, H, W).
    """
    if height != width:
        raise ValueError(f"maps must be square, not {height}x{width}")
    return scale[..., None, None] * gaussian_maps(xy, height, width, std=2 * std_cells / width)


def thermometer(coordinates: Tensor, bins: int) -> Tensor:
    """Thermometer code of coordinates (Buckman et al. 2018): [-1, 1] is cut into `bins` parts, filled from the left.

    Bin j of a coordinate c is [c >= -1 + 2j / bins], so the number of ones tells which part c lies in, and every
    coordinate inside the image has its first bin set. Coordinates outside saturate.

    Args:
        coordinates: (...) in [-1, 1].
        bins: number of parts.

    Returns:
        (..., bins) of zeros and ones in the dtype of `coordinates`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = -1 + 2 * torch.arange(bins, device=coordinates.device, dtype=coordinates.dtype) / bins
    return (coordinates.unsqueeze(-1) >= edges).to(coordinates.dtype)


def pool_features(features: Tensor, heatmaps: Tensor) -> Tensor:
    """Average of the features under each heatmap (Transporter section 3.2.1).

    The average is weighted by the heatmap, so a keypoint at the border counts only the part of it inside the image.

    Args:
        features: (..., D, H, W).
        heatmaps: (..., K, H, W), non-negative.

    Returns:
        (..., K, D).
    """
    _require_rank(features, 3, "features", "(..., D, H, W)")
    if features.shape[-2:] != heatmaps.shape[-2:]:
        raise ValueError(f"features {tuple(features.shape)} and heatmaps {tuple(heatmaps.shape)} differ in H x W")
    weights = heatmaps.flatten(-2)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return weights @ features.flatten(-2).transpose(-1, -2)


def _expectation(density: Tensor) -> Tensor:
    columns = cell_centres(density.shape[-1], device=density.device, dtype=density.dtype)
    rows = cell_centres(density.shape[-2], device=density.device, dtype=density.dtype)
    # Products and sums, not a matrix product, which autocast would round to bfloat16.
    return torch.stack([(density.sum(dim=-2) * columns).sum(dim=-1), (density.sum(dim=-1) * rows).sum(dim=-1)], dim=-1)


def _require_rank(tensor: Tensor, rank: int, name: str, form: str) -> None:
    if tensor.ndim < rank:
        raise ValueError(f"{name} must be {form}, not {tuple(tensor.shape)}")
