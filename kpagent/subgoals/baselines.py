"""What KeyIn is compared with: keyframes by chance or at a distance, and its own forms that cannot adapt (section 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from kpagent.errors import UsageError
from kpagent.subgoals.configuration import KeyInConfig

Form = Literal["keyin", "static", "jumpy"]
FORMS: tuple[Form, ...] = get_args(Form)

STATIC_BROWNIAN = (4, 6, 5, 5, 4, 8)
"""Offsets of the static baseline on Structured Brownian motion."""
STATIC_PUSHING = (4, 5, 5, 5, 5, 6)
"""Offsets of the static baseline on the pushing dataset."""


def form_config(name: str, base: KeyInConfig, *, static: tuple[int, ...] = STATIC_BROWNIAN) -> KeyInConfig:
    """The configuration of a form of KeyIn, which differs in its offsets alone.

    | name | differs in |
    |---|---|
    | keyin | nothing |
    | static | the same loss, with one pattern of offsets for all sequences |
    | jumpy | all offsets the same, as small as reaches the end of the sequence but one more (6 for Brownian motion) |

    Args:
        name: of the form.
        base: the full model.
        static: the pattern.

    Raises:
        UsageError: no such form, or a pattern that does not fit the model.
    """
    if name not in FORMS:
        raise UsageError(f"no form called {name!r}; there are {', '.join(FORMS)}")
    if name == "static":
        return replace(base, fixed_offsets=static)
    if name == "jumpy":
        return replace(base, fixed_offsets=(jump(base),) * base.keyframes)
    return base


def jump(config: KeyInConfig) -> int:
    """The constant offset: 6 of 30 frames with 6 keyframes, as in section 4.1.1, and no more than S."""
    return min(config.frames // config.keyframes + 1, config.longest)


def constant_keyframes(config: KeyInConfig, offset: int | None = None) -> np.ndarray:
    """Keyframes at a constant distance, in a sequence of T + N frames.

    Args:
        config: of the model it is compared with.
        offset: frames between two; `jump` without.

    Returns:
        At most M frame numbers.
    """
    step = jump(config) if offset is None else offset
    times = config.given - 1 + step * np.arange(1, config.keyframes + 1)
    return times[times < config.length]


def random_keyframes(config: KeyInConfig, count: int, *, seed: Any = 0) -> list[np.ndarray]:
    """Keyframes by chance: M different ones of the N frames, all sets with the same probability.

    Args:
        config: of the model it is compared with.
        count: of sequences.
        seed: of the draws.

    Returns:
        For each sequence, M frame numbers, rising.
    """
    draws = np.random.default_rng(seed)
    return [config.given + np.sort(draws.choice(config.frames, config.keyframes, replace=False)) for _ in range(count)]
