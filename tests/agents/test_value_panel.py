from __future__ import annotations

import numpy as np
import pytest

from kpagent.agents.value_panel import CHOSEN, OTHER, draw_values

NAMES = ("NOOP", "UP", "DOWNRIGHTFIRE")


def bars(panel: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """Lengths of the bars of a colour, from the top: unbroken runs in the rows that have one."""
    lengths = (panel == np.array(color)).all(axis=-1).sum(axis=1)
    starts = np.flatnonzero((lengths[1:] > 1) & (lengths[:-1] <= 1)) + 1
    # The middle of a bar, where no part of a letter has just its colour.
    return [int(np.median(lengths[start : start + 8])) for start in starts]


def test_bars_are_as_long_as_values_are_above_the_least() -> None:
    values = np.array([1.0, 3.0, 2.0])
    panel = draw_values(630, "score 3", NAMES, values, 2, full=2.0)
    least, most = bars(panel, OTHER)
    assert least == 2
    assert most > 50
    (chosen,) = (length for length in bars(panel, CHOSEN) if length > 20)
    assert chosen == pytest.approx(most / 2, abs=12)
    # The same differences are the same bars, and none is longer than a full one.
    assert bars(draw_values(630, "", NAMES, values - 8, 2, full=2.0), OTHER) == [least, most]
    assert bars(draw_values(630, "", NAMES, 9 * values, 2, full=2.0), OTHER) == [least, most]
    assert bars(draw_values(630, "", NAMES, values, 2, full=4.0), OTHER)[1] == pytest.approx(most / 2, abs=1)


@pytest.mark.parametrize("height", [64, 210, 630])
@pytest.mark.parametrize("count", [1, 18, 300])
def test_any_number_of_actions_fits_any_height(height: int, count: int) -> None:
    names = [f"DOWNRIGHTFIRE{index}" for index in range(count)]
    sizes = {
        draw_values(height, "score -21", names, values, chosen, full).shape
        for values, chosen, full in ((None, None, 1.0), (np.zeros(count), 0, 0.0), (1e6 * np.ones(count), 0, 1.0))
    }
    assert len(sizes) == 1
    assert sizes.pop()[0] == height
