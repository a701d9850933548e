"""Random smooth maps against SciPy's thin-plate spline, and images against the points that made them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

from kpagent.keypoints import cell_centres
from kpagent.perception.warping import CONTROL, Warp, draw_warp

STILL = {"bend": 0.0, "rotation": 0.0, "scaling": 1.0, "shift": 0.0}
RELEASED = {"bend": 0.1, "rotation": 10.0, "scaling": 1.25, "shift": 0.3}


def test_a_bend_is_the_thin_plate_spline_of_scipy() -> None:
    warp = draw_warp((3, 1), 2, **STILL | {"bend": 0.1})
    along = np.linspace(-1, 1, CONTROL)
    control = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    moved = warp(torch.from_numpy(control).float()).numpy()
    displacement = moved - control
    assert np.std(displacement) == pytest.approx(0.1, rel=0.2)
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    found = warp(torch.from_numpy(points).float()).numpy()
    for i in range(2):
        spline = RBFInterpolator(control, displacement[i], kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(found[i], points + spline(points), atol=1e-3)


def test_nothing_is_moved_at_no_strength() -> None:
    warp = draw_warp((0,), 3, **STILL)
    points = torch.rand(3, 5, 2) * 2 - 1
    torch.testing.assert_close(warp(points), points)
    images = torch.rand(3, 2, 9, 9)
    torch.testing.assert_close(warp.images(images), images, atol=1e-5, rtol=1e-4)


def test_rotation_scaling_and_shift_are_a_similarity_of_the_strength_asked_for() -> None:
    warp = draw_warp((0,), 4000, **STILL | {"rotation": 10.0, "scaling": 1.25, "shift": 0.3})
    factor = warp.matrix.det().sqrt()
    angle = torch.atan2(warp.matrix[:, 1, 0], warp.matrix[:, 0, 0]).rad2deg()
    torch.testing.assert_close(warp.matrix @ warp.matrix.mT, (factor**2)[:, None, None] * torch.eye(2).expand(4000, 2, 2))
    assert float(factor.log().std()) == pytest.approx(np.log(1.25), rel=0.05)
    assert float(angle.std()) == pytest.approx(10, rel=0.05)
    assert 0.29 < float(warp.shift.abs().max()) <= 0.3
    assert float(warp.shift.mean()) == pytest.approx(0, abs=0.01)
    torch.testing.assert_close(warp(torch.zeros(1, 2)), warp.shift)


@settings(max_examples=20)
@given(seed=st.tuples(st.integers(0, 100), st.integers(0, 10_000)))
def test_a_map_is_a_function_of_the_seed(seed: tuple[int, int]) -> None:
    points = torch.rand(3, 4, 2) * 2 - 1
    one, again, other = (draw_warp(which, 3, **RELEASED)(points) for which in (seed, seed, (*seed, 1)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def blob(xy: torch.Tensor, size: int) -> torch.Tensor:
    """(N, 2) to (N, 1, size, size): a soft dot at each point."""
    centres = cell_centres(size)
    x, y = xy[:, 0, None, None], xy[:, 1, None, None]
    return torch.exp(-((centres[None, None] - x) ** 2 + (centres[None, :, None] - y) ** 2) / 0.02)[:, None]


def test_a_point_of_the_warped_image_is_taken_back_to_where_it_came_from() -> None:
    warp = draw_warp((5,), 40, **RELEASED)
    there = torch.rand(40, 1, 2) - 0.5
    image = blob(warp(there)[:, 0], 64)
    warped = warp.images(image)[:, 0]
    centres = cell_centres(64)
    total = warped.sum(dim=(1, 2))
    # The dot is bent a little, so that its middle is not exactly where its centre went.
    found = torch.stack([(warped.sum(dim=1) * centres).sum(dim=1), (warped.sum(dim=2) * centres).sum(dim=1)], dim=-1)
    distance = (found / total[:, None] - there[:, 0]).norm(dim=-1)
    inside = (warp(there).abs() < 0.7).flatten(1).all(dim=1)
    assert inside.sum() > 20
    assert float(distance[inside].mean()) < 0.05


def test_outside_is_the_nearest_border() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    away = Warp(torch.zeros(1, CONTROL**2 + 3, 2), torch.eye(2)[None], torch.tensor([[[10.0, 0.0]]]))
    torch.testing.assert_close(away.images(image), image[..., -1:].expand(1, 1, 4, 4))


def test_a_map_is_differentiable_in_the_points() -> None:
    warp = draw_warp((0,), 2, **RELEASED)
    points = (torch.rand(2, 3, 2) - 0.5).requires_grad_()
    warp(points).square().sum().backward()
    assert points.grad is not None
    assert bool(points.grad.isfinite().all())
    at_control = torch.full((2, 1, 2), -1.0, requires_grad=True)
    warp(at_control).sum().backward()
    assert at_control.grad is not None
    assert bool(at_control.grad.isfinite().all())
