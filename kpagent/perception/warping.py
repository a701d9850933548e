"""Random smooth maps of the image plane: a thin-plate spline, then a rotation, a scaling and a shift.

A map says where in the original each point of the warped image comes from, so a point found in the warped image is taken
back to the original by the same map that made the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from kpagent.keypoints import cell_centres

CONTROL = 7
"""Control points of the spline along each axis."""


@dataclass(frozen=True)
class Warp:
    """N maps of the plane.

    Attributes:
        bend: (N, M + 3, 2), coefficients of the spline's basis.
        matrix: (N, 2, 2), rotation and scaling.
        shift: (N, 1, 2).
    """

    bend: Tensor
    matrix: Tensor
    shift: Tensor

    def __call__(self, xy: Tensor) -> Tensor:
        """Where in the original the points of the warped images come from: (N, P, 2) or (P, 2) to (N, P, 2)."""
        bent = xy + _basis(xy) @ self.bend
        return bent @ self.matrix.transpose(-1, -2) + self.shift

    def to(self, device: torch.device | str) -> Warp:
        """The same maps on a device."""
        return Warp(self.bend.to(device), self.matrix.to(device), self.shift.to(device))

    def images(self, images: Tensor) -> Tensor:
        """Images warped, (N, C, H, W) both; what lies outside the original looks like its nearest border."""
        height, width = images.shape[-2:]
        rows, columns = torch.meshgrid(
            cell_centres(height, device=images.device), cell_centres(width, device=images.device), indexing="ij"
        )
        grid = self(torch.stack([columns, rows], dim=-1).flatten(0, 1)).unflatten(1, (height, width))
        return grid_sample(images, grid, padding_mode="border", align_corners=False)


def draw_warp(seed: Sequence[int], count: int, *, bend: float, rotation: float, scaling: float, shift: float) -> Warp:
    """`count` random maps, a function of the arguments alone, on the CPU.

    Args:
        seed: numbers to seed with.
        count: N.
        bend: standard deviation of the displacement of each of 7×7 control points, in coordinate units.
        rotation: standard deviation of the angle, in degrees.
        scaling: factor of one standard deviation of the scaling.
        shift: largest shift along each axis, in coordinate units.
    """
    rng = np.random.default_rng([*seed])
    # Three zeros for the conditions that the spline has no affine growth of its own.
    wanted = np.zeros((count, CONTROL**2 + 3, 2))
    wanted[:, : CONTROL**2] = rng.normal(scale=bend, size=(count, CONTROL**2, 2))
    angle = np.radians(rotation) * rng.normal(size=count)
    factor = scaling ** rng.normal(size=count)
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    matrix = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)
    moved = rng.uniform(-shift, shift, (count, 1, 2))
    bent = np.einsum("ij,njk->nik", _solver(), wanted)
    return Warp(*(torch.from_numpy(part).float() for part in (bent, matrix, moved)))


def _control_points() -> Tensor:
    along = torch.linspace(-1, 1, CONTROL, dtype=torch.float64)
    return torch.cartesian_prod(along, along)


def _basis(xy: Tensor) -> Tensor:
    """r² log r² around each control point, and 1, x, y: (..., P, 2) to (..., P, M + 3)."""
    squared = (xy.unsqueeze(-2) - _control_points().to(xy)).square().sum(dim=-1)
    radial = squared * squared.clamp_min(1e-12).log()
    return torch.cat([radial, torch.ones_like(xy[..., :1]), xy], dim=-1)


@functools.lru_cache(maxsize=1)
def _solver() -> np.ndarray:
    """From displacements of the control points to coefficients of the basis."""
    basis = _basis(_control_points()).numpy()
    affine = basis[:, -3:]
    system = np.block([[basis], [affine.T, np.zeros((3, 3))]])
    return np.linalg.inv(system)
