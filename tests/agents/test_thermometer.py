from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpagent.agents.thermometer import thermometer
from kpagent.keypoints import thermometer as hard_thermometer

COORDINATES = st.floats(-1, 1, width=32)


def code(x: float, y: float = 0.0, bins: int = 4) -> torch.Tensor:
    return thermometer(torch.tensor([[x, y]], dtype=torch.float64), bins)[0]


@pytest.mark.parametrize(
    ("coordinate", "wanted"),
    [
        (-1.0, [0, 0, 0, 0]),
        (-0.75, [0.5, 0, 0, 0]),
        (-0.5, [1, 0, 0, 0]),
        (0.0, [1, 1, 0, 0]),
        (0.125, [1, 1, 0.25, 0]),
        (1.0, [1, 1, 1, 1]),
    ],
)
def test_mercury_stands_as_high_as_the_coordinate(coordinate: float, wanted: list[float]) -> None:
    assert code(coordinate)[0].tolist() == wanted
    assert code(0.3, coordinate)[1].tolist() == wanted


@pytest.mark.parametrize(("outside", "edge"), [(-7.0, -1.0), (1.01, 1.0)])
def test_what_lies_outside_saturates(outside: float, edge: float) -> None:
    assert torch.equal(code(outside), code(edge))


@given(coordinate=COORDINATES, bins=st.integers(1, 40))
def test_the_sum_of_a_code_is_the_coordinate(coordinate: float, bins: int) -> None:
    assert code(coordinate, bins=bins)[0].sum().item() == pytest.approx((coordinate + 1) / 2 * bins, abs=1e-9)


@given(one=COORDINATES, other=COORDINATES, bins=st.integers(1, 40))
def test_a_larger_coordinate_empties_no_cell(one: float, other: float, bins: int) -> None:
    lower, higher = sorted([one, other])
    assert (code(lower, bins=bins)[0] <= code(higher, bins=bins)[0]).all()


@given(coordinate=COORDINATES, bins=st.integers(1, 40))
def test_no_cell_fills_before_the_one_to_its_left_is_full(coordinate: float, bins: int) -> None:
    cells = code(coordinate, bins=bins)[0].numpy()
    assert ((cells >= 0) & (cells <= 1)).all()
    assert (np.diff(cells) <= 0).all()
    # Up to rounding at the edges of cells.
    assert ((cells > 1e-12) & (cells < 1 - 1e-12)).sum() <= 1


@given(coordinate=COORDINATES, bins=st.integers(1, 40))
def test_the_zeros_and_ones_of_the_published_code_are_the_cells_that_are_begun(coordinate: float, bins: int) -> None:
    x = torch.tensor(coordinate, dtype=torch.float64)
    # Where a coordinate lies on an edge, one code has begun the cell and the other has not.
    if abs((coordinate + 1) / 2 * bins - round((coordinate + 1) / 2 * bins)) > 1e-9:
        assert torch.equal(code(coordinate, bins=bins)[0] > 0, hard_thermometer(x, bins).bool())


def test_leading_axes_dtype_and_gradient_pass() -> None:
    xy = torch.rand(2, 5, 3, 2, requires_grad=True)
    found = thermometer(xy, 8)
    assert found.shape == (2, 5, 3, 2, 8)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert xy.grad is not None
    torch.testing.assert_close(xy.grad, torch.full_like(xy, 4.0))
    assert torch.equal(found[1, 2], thermometer(xy[1, 2], 8))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"xy must be \(\.\.\., K, 2\), not \(4, 3\)"):
        thermometer(torch.zeros(4, 3), 8)
