"""Scores on Atari 100k as others published them. None of them was measured here.

Games are named as in the zoo. What a released configuration says of the protocol was read in the release; where nothing
is noted, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kpagent.evaluation.scores import human_normalized

GAMES = ("breakout", "frostbite", "ms_pacman", "pong", "seaquest")
"""The five games of Transporter Figure 6."""
FIGURE_6 = "Kulkarni et al. 2019 (Transporter), Figure 6"


@dataclass(frozen=True)
class Published:
    """Mean scores of one player or method, as published."""

    label: str
    """As a table or a picture names it."""
    scores: Mapping[str, float]
    """Mean score by game."""
    source: str
    """The paper, with the table or figure where that is known."""
    deviations: Mapping[str, float] | None = None
    """Standard deviation by game, where the source prints it."""
    learns: bool = True
    """Whether it learned from 100,000 interactions; random players and humans did not."""
    own: bool | None = None
    """Whether the authors of the method report these figures themselves; None for what is no method."""
    cost: str | None = None
    """Of a run of one game, as published."""
    notes: tuple[str, ...] = ()
    """In what the figures or their protocol differ from others, as far as it is known for sure."""


def normalized(scores: Mapping[str, float]) -> dict[str, float]:
    """Human-normalised scores by game, on the scale of the field (`random` 0, `human` 1).

    Raises:
        KeyError: a game is none of `GAMES`.
    """
    random, human = PUBLISHED["random"].scores, PUBLISHED["human"].scores
    return {game: float(human_normalized(score, random[game], human[game])) for game, score in scores.items()}


def _by_game(*figures: float) -> dict[str, float]:
    return dict(zip(GAMES, figures, strict=True))


_REPORTED = "figures of the table in Kaiser et al. 2019, as Transporter quotes it"
_ENDS_LIVES = "a lost life ends a training trajectory"
_CLIPS = "rewards are clipped in training"

PUBLISHED: Mapping[str, Published] = {
    "random": Published(
        "Random",
        _by_game(1.7, 65.2, 307.3, -20.7, 68.4),
        "the figures that human-normalised scores are made with, as in Agarwal et al. 2021",
        learns=False,
        notes=("Transporter Figure 6 prints -20.7 for seaquest, a slip; its other figures are the same",),
    ),
    "human": Published(
        "Human",
        _by_game(30.5, 4334.7, 6951.6, 14.6, 42054.7),
        "the figures that human-normalised scores are made with, as in Agarwal et al. 2021",
        learns=False,
    ),
    "human_2019": Published(
        "Human (Figure 6)",
        _by_game(31.8, 4334.7, 15693.0, 9.3, 20182.0),
        FIGURE_6,
        learns=False,
        notes=("other figures than those that human-normalised scores are made with today",),
    ),
    "rainbow": Published(
        "Rainbow",
        _by_game(3.3, 140.1, 364.3, -19.5, 206.3),
        FIGURE_6,
        deviations=_by_game(0.1, 2.7, 20.4, 0.2, 17.1),
        own=False,
        notes=(_REPORTED,),
    ),
    "ppo": Published(
        "PPO",
        _by_game(5.9, 174.0, 496.0, -20.5, 370.0),
        FIGURE_6,
        deviations=_by_game(3.3, 40.7, 379.8, 0.6, 103.3),
        own=False,
        notes=(_REPORTED,),
    ),
    "simple_2019": Published(
        "SimPLe (Figure 6)",
        _by_game(12.7, 254.7, 762.8, 5.2, 370.9),
        FIGURE_6,
        deviations=_by_game(3.8, 4.9, 331.5, 9.7, 128.2),
        own=True,
        notes=(_REPORTED, "the first version of the paper; later ones report other figures"),
    ),
    "keyqn_2019": Published(
        "KeyQN (paper)",
        _by_game(19.3, 388.3, 999.4, 10.8, 236.7),
        FIGURE_6,
        deviations=_by_game(4.5, 142.1, 145.4, 5.7, 22.2),
        own=True,
        notes=(
            "mean of three seeds",
            "keypoints were learned from frames of a random policy that the 100,000 interactions do not count",
        ),
    ),
    "simple": Published("SimPLe", _by_game(16.4, 237, 1480, 12.8, 683), "Kaiser et al. 2020", own=True),
    "der": Published(
        "DER", _by_game(1.9, 867, 1204, -19.3, 354), "van Hasselt et al. 2019", own=True, cost="3 to 5 h on a P100"
    ),
    "drq_eps": Published(
        "DrQ(ε)",
        _by_game(19.8, 1014, 1218, -9.1, 352),
        "Agarwal et al. 2021",
        own=False,
        cost="3 to 5 h on a P100",
        notes=("DrQ (Kostrikov et al. 2021) with the ε of other Q-learners, run again by Agarwal et al.",),
    ),
    "spr": Published(
        "SPR",
        _by_game(19.6, 1171, 1318, -5.4, 558),
        "Agarwal et al. 2021",
        own=False,
        cost="3 to 5 h on a P100",
        notes=("SPR (Schwarzer et al. 2021) run again by Agarwal et al.; its own paper reports other figures",),
    ),
    "iris": Published(
        "IRIS",
        _by_game(83.7, 259, 999, 14.6, 661),
        "Micheli et al. 2023",
        own=True,
        cost="3.5 days on an A100",
        notes=(
            f"released configuration: {_ENDS_LIVES}, at most 20,000 interactions in training",
            "released configuration: rewards are not clipped",
            "released configuration: actions are sampled in evaluation, at temperature 0.5",
        ),
    ),
    "efficientzero": Published(
        "EfficientZero",
        _by_game(414, 296, 1281, 20.1, 1100),
        "Ye et al. 2021",
        own=True,
        cost="7 h and more, several GPUs",
        notes=(
            f"released configuration: {_ENDS_LIVES}, 12,000 frames at most",
            f"released configuration: {_CLIPS}",
            "released configuration: 32 episodes of evaluation; actions come from a search of 50 simulations",
        ),
    ),
    "diamond": Published(
        "DIAMOND",
        _by_game(132.5, 274, 1958, 20.4, 551),
        "Alonso et al. 2024",
        own=True,
        cost="2.9 days on a 4090",
        notes=(f"released configuration: {_ENDS_LIVES}", "released configuration: 100 episodes of evaluation, ε of 0"),
    ),
    "dreamerv3_2024": Published(
        "DreamerV3 (2024)",
        _by_game(9.7, 3377, 1521, -5.0, 962),
        "Hafner et al. 2024",
        own=True,
        cost="14 h on a 3080",
        notes=("released configuration: lives are not looked at, rewards are not clipped",),
    ),
    "bbf": Published(
        "BBF",
        _by_game(370.6, 2385, 2008, 16.7, 1233),
        "Schwarzer et al. 2023",
        own=True,
        cost="6 to 7 h on a 4090",
        notes=(
            f"released configuration: {_ENDS_LIVES}",
            "released configuration: 100 episodes of evaluation, ε of 0.001, 27,000 interactions at most",
        ),
    ),
    "simulus": Published("Simulus", _by_game(148.9, 258, 1283, 19.9, 1800), "Cohen et al. 2025", own=True),
}
"""By a name for figures; `random` and `human` are the scale of human-normalised scores."""
