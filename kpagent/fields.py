"""Fields of configurations that come from a header or a caller: values of a wrong type or range are refused in one line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kpagent.errors import UsageError


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_types(config: Any) -> None:
    """Refuse values of another type than their field's default.

    Args:
        config: a dataclass; of a field without a default of its own, nothing is known but that it is a dataclass.

    Raises:
        UsageError: one line that names the field.
    """
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if one.default is dataclasses.MISSING:
            wanted, holds = "a configuration", dataclasses.is_dataclass(value)
        elif isinstance(one.default, bool):
            wanted, holds = "true or false", isinstance(value, bool)
        elif isinstance(one.default, int):
            wanted, holds = "a whole number", is_whole(value)
        elif isinstance(one.default, float):
            wanted, holds = "a finite number", (is_whole(value) or isinstance(value, float)) and math.isfinite(value)
        elif isinstance(one.default, tuple):
            wanted, holds = "a list of whole numbers", isinstance(value, tuple | list)
        else:
            wanted, holds = "a word", isinstance(value, str)
        if not holds:
            raise UsageError(f"{one.name} must be {wanted}; got {value!r}")


def require(config: Any, checks: Mapping[str, bool]) -> None:
    """Refuse a configuration of which not all checks hold.

    Args:
        config: whose fields they are.
        checks: whether each holds, by a message that begins with the field's name.

    Raises:
        UsageError: the message of the first that does not, and the field's value.
    """
    for message, holds in checks.items():
        if not holds:
            raise UsageError(f"{message}; got {getattr(config, message.split()[0])!r}")
