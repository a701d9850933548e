"""Random play with the truth beside it: what tracks are measured on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpagent.envs.making import make_env
from kpagent.envs.objects import locate_objects
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout

TRIES = 200
"""Episodes in a row that may turn out too short before that is taken for the rule."""


@dataclass(frozen=True, eq=False)
class TrackedPlay:
    """A stretch of one episode without a break.

    Attributes:
        frames: (T, H, W, 3) uint8.
        objects: (T, M, 2) in [-1, 1], NaN where an object is not on the screen.
        names: the M objects.
    """

    frames: np.ndarray
    objects: np.ndarray
    names: tuple[str, ...]


def record_play(env_id: str, episodes: int, length: int, seed: int) -> Iterator[TrackedPlay]:
    """Stretches of random play, one an episode, each from somewhere near its start.

    Args:
        env_id: an environment with ground truth.
        episodes: how many stretches.
        length: frames (interactions) of each.
        seed: of the environment and of the actions.

    Raises:
        UsageError: no ground truth for the environment, or its episodes are shorter than `length`.
    """
    rng = np.random.default_rng(seed)
    with contextlib.closing(make_env(env_id)) as env:
        layout: FrameLayout | None = None
        with contextlib.suppress(UsageError):
            layout = FrameLayout.of(env.observation_space)
        found = short = longest = 0
        while found < episodes:
            observation, _ = env.reset(seed=int(rng.integers(2**31)))
            # Interactions before the stretch, so that not all begin as an episode does.
            wait = int(rng.integers(length // 4 + 1))
            frames: list[np.ndarray] = []
            places: list[np.ndarray] = []
            names: tuple[str, ...] = ()
            ended = False
            while not ended and len(frames) < length:
                observation, _, terminated, truncated, _ = env.step(_act(env, rng))
                ended = terminated or truncated
                wait -= 1
                if wait >= 0:
                    continue
                frames.append(np.array(layout.to_rgb(observation) if layout else env.render(), np.uint8))
                located = locate_objects(env)
                names = tuple(located)
                places.append(np.stack(list(located.values())))
            longest = max(longest, len(frames))
            if len(frames) == length:
                found, short = found + 1, 0
                yield TrackedPlay(np.stack(frames), np.stack(places), names)
            elif (short := short + 1) == TRIES:
                raise UsageError(
                    f"no episode of {env_id} in {TRIES} has {length} frames, the longest {longest}; ask for shorter ones"
                )


def _act(env: Any, rng: np.random.Generator) -> Any:
    space = env.action_space
    return rng.uniform(space.low, space.high).astype(space.dtype) if hasattr(space, "low") else int(rng.integers(space.n))
