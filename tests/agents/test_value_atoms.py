from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from kpagent.agents.value_atoms import SMOOTHING, gaussian_histogram

SUPPORT = torch.linspace(-10, 10, 51, dtype=torch.float64)
WIDTH = 0.4


def histogram(value: float, support: torch.Tensor = SUPPORT) -> torch.Tensor:
    return gaussian_histogram(torch.tensor(value, dtype=support.dtype), support)


@given(value=st.floats(-15, 15), atoms=st.integers(2, 60), low=st.floats(-20, 0), reach=st.floats(0.5, 40))
def test_each_atom_has_the_mass_of_a_normal_distribution_around_it(
    value: float, atoms: int, low: float, reach: float
) -> None:
    support = torch.linspace(low, low + reach, atoms, dtype=torch.float64)
    width = reach / (atoms - 1)
    places = support.numpy()
    around = norm(loc=np.clip(value, low, low + reach), scale=SMOOTHING * width)
    mass = around.cdf(places + width / 2) - around.cdf(places - width / 2)
    np.testing.assert_allclose(histogram(value, support).numpy(), mass / mass.sum(), atol=1e-9)


@given(value=st.floats(-100, 100))
def test_masses_are_positive_and_sum_to_one(value: float) -> None:
    found = histogram(value)
    assert found.min().item() >= 0
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


@given(value=st.floats(-8, 8))
def test_the_expectation_is_the_value_where_nothing_is_cut_off(value: float) -> None:
    # Rounding a Gaussian of 0.75 distances to atoms moves its mean by less than a thousandth of a distance.
    assert (histogram(value) @ SUPPORT).item() == pytest.approx(value, abs=1e-3 * WIDTH)


def test_the_expectation_of_a_value_at_the_end_is_drawn_in_by_less_than_an_atom() -> None:
    assert -10 < (histogram(-10.0) @ SUPPORT).item() < -10 + WIDTH
    assert 10 - WIDTH < (histogram(10.0) @ SUPPORT).item() < 10


@pytest.mark.parametrize(("outside", "end"), [(-11.0, -10.0), (1e6, 10.0), (np.inf, 10.0)])
def test_values_outside_the_support_are_clamped(outside: float, end: float) -> None:
    assert torch.equal(histogram(outside), histogram(end))


def test_by_hand() -> None:
    support = torch.tensor([-1.0, 0.0, 1.0])
    # Cells of width 1 under a normal distribution of standard deviation 0.75, cut off at -1.5 and 1.5: two of them.
    inner, outer = norm.cdf(0.5 / 0.75) - norm.cdf(-0.5 / 0.75), norm.cdf(1.5 / 0.75) - norm.cdf(0.5 / 0.75)
    wanted = np.array([outer, inner, outer]) / (inner + 2 * outer)
    np.testing.assert_allclose(histogram(0.0, support).numpy(), wanted, rtol=1e-6)
    assert wanted.sum() == pytest.approx(1)
    assert wanted[1] == pytest.approx(0.5186, abs=1e-4)


def test_a_larger_value_moves_mass_upwards() -> None:
    values = torch.linspace(-10, 10, 201, dtype=torch.float64)
    below = gaussian_histogram(values, SUPPORT).cumsum(dim=-1)
    assert (below.diff(dim=0) <= 1e-12).all()


def test_leading_axes_and_dtype_pass() -> None:
    values = torch.rand(3, 2, 4)
    support = torch.linspace(-1, 1, 5)
    found = gaussian_histogram(values, support)
    assert found.shape == (3, 2, 4, 5)
    assert found.dtype == torch.float32
    assert torch.equal(found[2, 1], gaussian_histogram(values[2, 1], support))
