"""The games that keypoints are measured on, with what the measuring needs to know of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kpagent.errors import UsageError


@dataclass(frozen=True)
class Game:
    """An environment with ground truth."""

    env: str
    """Gymnasium id."""
    keypoints: int
    """K: the most objects that move at once, as the paper sets it, as far as random play shows them."""
    spare: int
    """Keypoints trained beside them, the least missed of which are dropped at the end."""
    epsilon: float
    """ε of the tracking metric: the mean extent of the objects, in coordinate units."""
    published: bool = False
    """Whether ε is that of Transporter Appendix A."""
    capacity: int = 6_000
    """Frame pairs to train on."""
    interactions: int = 800_000
    """Spent on collecting them."""
    trajectory_length: int = 100
    """Of the trajectories that the pairs come from, in interactions."""
    mix: float = 0.0
    """Share of the pairs whose frames come from different episodes."""
    difference: bool = False
    """Whether Ψ sees the frame without its background: where things that look different roam the whole screen."""
    kin: tuple[str, ...] = ()
    """Environments with the same objects, whose weights may be measured here too."""


GAMES: dict[str, Game] = {
    "pong": Game("ALE/Pong-v5", 3, 3, 0.20, published=True, capacity=8_000, interactions=1_200_000, difference=True),
    "frostbite": Game("ALE/Frostbite-v5", 14, 4, 0.20, published=True),
    "ms_pacman": Game("ALE/MsPacman-v5", 5, 3, 0.15, published=True, difference=True),
    "stack_4": Game(
        "kpagent/Stacker4-v0",
        8,
        2,
        0.15,
        published=True,
        capacity=3_000,
        interactions=180_000,
        trajectory_length=50,
        mix=1.0,
    ),
    "breakout": Game("ALE/Breakout-v5", 2, 4, 0.20),
    "seaquest": Game("ALE/Seaquest-v5", 8, 2, 0.20),
    "montezuma_revenge": Game("ALE/MontezumaRevenge-v5", 3, 3, 0.15),
}
"""By the name of their weights in the zoo."""

VARIANTS: dict[str, Game] = {
    name: dataclasses.replace(
        GAMES[of], env=env, published=False, capacity=3_000, interactions=300_000, kin=(GAMES[of].env,)
    )
    for name, of, env in (
        ("pong_sliding", "pong", "kpagent/PongSliding-v0"),
        ("breakout_half_wall", "breakout", "kpagent/BreakoutHalfWall-v0"),
        ("montezuma_second_room", "montezuma_revenge", "kpagent/MontezumaSecondRoom-v0"),
    )
}
"""What random play in these games never shows: a background that moves, and screens that come later."""


def find_game(name: str) -> Game:
    """The game of that name.

    Raises:
        UsageError: there is none with ground truth.
    """
    known = GAMES | VARIANTS
    if name not in known:
        raise UsageError(f"no ground truth for {name!r}; there is for {', '.join(known)}")
    return known[name]


def require_games(names: Sequence[str]) -> None:
    """Check that there is at least one game, none twice, and ground truth for each.

    Raises:
        UsageError: otherwise.
    """
    if not names or len(set(names)) != len(names):
        raise UsageError(f"name at least one game, and each once; got {' '.join(names) or 'none'}")
    for name in names:
        find_game(name)
