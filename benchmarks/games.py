"""The games that keypoints are measured on, with what the measuring needs to know of each."""

from __future__ import annotations

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
    kin: tuple[str, ...] = ()
    """Environments with the same objects, whose weights may be measured here too."""


GAMES: dict[str, Game] = {
    "pong": Game("ALE/Pong-v5", 3, 3, 0.20, published=True, capacity=8_000, interactions=1_200_000),
    "frostbite": Game("ALE/Frostbite-v5", 14, 4, 0.20, published=True),
    "ms_pacman": Game("ALE/MsPacman-v5", 5, 3, 0.15, published=True),
    "stack_4": Game(
        "kpagent/Stacker4-v0", 8, 2, 0.15, published=True, capacity=3_000, interactions=180_000, trajectory_length=50
    ),
    "breakout": Game("ALE/Breakout-v5", 2, 4, 0.20),
    "seaquest": Game("ALE/Seaquest-v5", 8, 2, 0.20),
    "montezuma_revenge": Game("ALE/MontezumaRevenge-v5", 3, 3, 0.15),
}
"""By the name of their weights in the zoo."""


def find_game(name: str) -> Game:
    """The game of that name.

    Raises:
        UsageError: there is none with ground truth.
    """
    if name not in GAMES:
        raise UsageError(f"no ground truth for {name!r}; there is for {', '.join(GAMES)}")
    return GAMES[name]


def require_games(names: Sequence[str]) -> None:
    """Check that there is at least one game, none twice, and ground truth for each.

    Raises:
        UsageError: otherwise.
    """
    if not names or len(set(names)) != len(names):
        raise UsageError(f"name at least one game, and each once; got {' '.join(names) or 'none'}")
    for name in names:
        find_game(name)
