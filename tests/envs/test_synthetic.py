from __future__ import annotations

import numpy as np
import pytest

from kpagent.envs.synthetic import SYNTHETIC


@pytest.mark.parametrize("name", SYNTHETIC)
def test_each_makes_sequences_of_the_size_that_is_asked_for(name: str) -> None:
    made = SYNTHETIC[name]
    source = made.make(3, 5, 48)
    assert source.count == 3
    assert (source.provenance.name, source.provenance.seed) == (name, 5)
    one, other = (next(iter(source.make(1, 2))) for _ in range(2))
    assert one.frames.shape == (made.frames, 48, 48, 3)
    assert (one.actions is not None) == made.has_actions
    assert np.array_equal(one.frames, other.frames)
    assert not np.array_equal(one.frames, next(iter(made.make(3, 6, 48).make(1, 2))).frames)
