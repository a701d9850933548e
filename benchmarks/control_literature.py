"""Returns on DeepMind Control from pixels as others published them. None of them was measured here.

They are given at environment steps, of which an action repeated N times takes N: 50,000 interactions of ours are 100,000 to
400,000 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedReturn:
    """Mean returns of one method, as published."""

    label: str
    """As a table names it."""
    at_100k: Mapping[str, float]
    """By task, after 100,000 environment steps."""
    at_500k: Mapping[str, float]
    """By task, after 500,000."""


PUBLISHED: Mapping[str, PublishedReturn] = {
    "dreamerv3": PublishedReturn(
        "DreamerV3",
        {
            "cartpole-balance": 936,
            "reacher-easy": 313,
            "cheetah-run": 300,
            "walker-walk": 601,
            "walker-stand": 901,
            "acrobot-swingup": 26,
        },
        {
            "cartpole-balance": 994,
            "reacher-easy": 706,
            "cheetah-run": 690,
            "walker-walk": 940,
            "walker-stand": 963,
            "acrobot-swingup": 159,
        },
    ),
    "drq_v2": PublishedReturn(
        "DrQ-v2",
        {
            "cartpole-balance": 987,
            "reacher-easy": 250,
            "cheetah-run": 273,
            "walker-walk": 170,
            "walker-stand": 324,
            "acrobot-swingup": 5,
        },
        {
            "cartpole-balance": 988,
            "reacher-easy": 751,
            "cheetah-run": 603,
            "walker-walk": 722,
            "walker-stand": 957,
            "acrobot-swingup": 46,
        },
    ),
    "td_mpc2": PublishedReturn(
        "TD-MPC2",
        {"reacher-easy": 360, "cheetah-run": 286, "walker-walk": 464, "acrobot-swingup": 13},
        {"reacher-easy": 918, "cheetah-run": 455, "walker-walk": 949, "acrobot-swingup": 53},
    ),
}
"""By a name for figures."""
