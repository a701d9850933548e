from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from kpagent.errors import UsageError
from kpagent.fields import require, require_types


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    deep: bool = True
    count: int = 3
    rate: float = 0.5
    name: str = "one"

    def __post_init__(self) -> None:
        require_types(self)
        require(self, {"count must be at least 1": self.count >= 1, "rate must be positive": self.rate > 0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inner": {}}, "inner must be a configuration; got {}"),
        ({"deep": 1}, "deep must be true or false; got 1"),
        ({"count": 2.0}, "count must be a whole number; got 2.0"),
        ({"count": True}, "count must be a whole number; got True"),
        ({"rate": "fast"}, "rate must be a finite number; got 'fast'"),
        ({"rate": float("inf")}, "rate must be a finite number; got inf"),
        ({"name": 4}, "name must be a word; got 4"),
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"rate": -1, "count": 0}, "count must be at least 1; got 0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        Config(**wrong)


def test_a_whole_number_is_a_number_and_a_list_of_them_is_a_list() -> None:
    assert Config(rate=2).rate == 2
    require_types(Inner([3, 4]))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sizes must be a list of whole numbers; got 5"):
        require_types(Inner(5))  # type: ignore[arg-type]
