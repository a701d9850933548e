"""What an exploration refuses before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from kpagent.agents.exploration import ExplorationConfig
from kpagent.errors import UsageError


@pytest.mark.parametrize("offset", [(0, 5), (5, 2), (3,), (1, 2, 3)])
def test_offsets_that_name_no_pairs_are_refused(offset: Any) -> None:
    with pytest.raises(UsageError, match="offset must be two numbers from 1 on that do not fall; got"):
        ExplorationConfig(offset=offset)


def test_an_offset_may_be_a_list_as_in_a_file() -> None:
    assert ExplorationConfig(offset=[2, 7]) == ExplorationConfig(offset=(2, 7))  # type: ignore[arg-type]
