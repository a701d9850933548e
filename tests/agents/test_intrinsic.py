from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpagent.agents.intrinsic import DIRECTIONS, control_gap, directional_rewards, most_controllable


def rewards(before: tuple[float, float], after: tuple[float, float]) -> list[float]:
    found: list[float] = directional_rewards(torch.tensor([before]), torch.tensor([after]))[0].tolist()
    return found


def test_directions_are_in_the_order_of_the_paper() -> None:
    assert DIRECTIONS == ("right", "left", "down", "up")


@pytest.mark.parametrize(
    ("direction", "after"),
    [("right", (0.5, 0.0)), ("left", (-0.5, 0.0)), ("down", (0.0, 0.5)), ("up", (0.0, -0.5))],
)
def test_a_move_is_rewarded_in_its_direction_and_paid_for_in_the_other(direction: str, after: tuple[float, float]) -> None:
    # On a screen x grows to the right and y grows downwards.
    opposite = {"right": "left", "left": "right", "down": "up", "up": "down"}
    wanted = {direction: 0.5, opposite[direction]: -0.5}
    assert rewards((0.0, 0.0), after) == [wanted.get(each, 0.0) for each in DIRECTIONS]


def test_an_oblique_move_counts_in_both_axes() -> None:
    assert rewards((0.25, -0.5), (0.75, -0.75)) == [0.5, -0.5, -0.25, 0.25]
    assert rewards((-1, 1), (1, -1)) == [2, -2, -2, 2]
    assert rewards((0.3, 0.4), (0.3, 0.4)) == [0, 0, 0, 0]


@given(seed=st.integers(0, 2**16), lead=st.sampled_from([(), (3,), (2, 5)]), keypoints=st.integers(1, 4))
def test_rewards_are_the_differences_of_section_3_2_2(seed: int, lead: tuple[int, ...], keypoints: int) -> None:
    before, after = np.random.default_rng(seed).uniform(-1, 1, size=(2, *lead, keypoints, 2))
    found = directional_rewards(torch.as_tensor(before), torch.as_tensor(after)).numpy()
    assert found.shape == (*lead, keypoints, 4)
    for place in np.ndindex(*lead, keypoints):
        (x, y), (next_x, next_y) = before[place], after[place]
        assert found[place].tolist() == [next_x - x, x - next_x, next_y - y, y - next_y]


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 3), (3, 3)), ((2, 3, 2), (3, 2)), ((), ())])
def test_places_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"must have one shape \(\.\.\., K, 2\)"):
        directional_rewards(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_the_gap_is_the_mean_over_directions_of_the_span_over_actions() -> None:
    still = [[5.0, 5.0, 5.0]] * 4
    moved = [[0.0, 1.0, 3.0], [-2.0, 0.0, 0.0], [7.0, 7.0, 7.0], [1.0, 0.0, -6.0]]
    values = torch.tensor([still, moved])
    assert control_gap(values).tolist() == [0.0, (3 + 2 + 0 + 7) / 4]
    assert most_controllable(values).item() == 1
    assert most_controllable(values.flip(0)).item() == 0


def test_a_high_value_is_not_control() -> None:
    rich, steered = torch.full((1, 4, 3), 100.0), torch.zeros(1, 4, 3)
    steered[..., 0] = -0.5
    assert most_controllable(torch.cat([rich, steered])).item() == 1


def test_control_in_one_direction_counts_for_less_than_in_all() -> None:
    one, every = torch.zeros(4, 2), torch.zeros(4, 2)
    one[2, 1], every[:, 1] = 3.0, 1.0
    assert most_controllable(torch.stack([one, every])).item() == 1


@given(
    seed=st.integers(0, 2**16),
    lead=st.sampled_from([(), (3,), (2, 5)]),
    keypoints=st.integers(1, 5),
    actions=st.integers(1, 6),
)
def test_the_gap_is_that_of_equation_2(seed: int, lead: tuple[int, ...], keypoints: int, actions: int) -> None:
    values = np.random.default_rng(seed).normal(size=(*lead, keypoints, 4, actions))
    gap, best = control_gap(torch.as_tensor(values)), most_controllable(torch.as_tensor(values))
    assert gap.shape == (*lead, keypoints)
    assert best.shape == lead
    assert best.dtype == torch.int64
    for place in np.ndindex(*lead):
        wanted = [sum(max(row) - min(row) for row in keypoint) / 4 for keypoint in values[place].tolist()]
        np.testing.assert_allclose(gap[place], wanted, atol=1e-12)
        assert best[place] == int(np.argmax(wanted))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (4, 4, 2, 3)])
def test_values_without_four_directions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(\.\.\., K, 4, A\)"):
        most_controllable(torch.zeros(shape))
