"""Scores of several runs on several games, summed up with what is known of their spread.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice": the interquartile mean
(IQM) of human-normalised scores over all runs of all games, with an interval from a bootstrap that draws runs within each
game. With three runs a game such intervals are too narrow; the paper asks for ten or more where they can be had.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t, trim_mean

LEVEL = 0.95


def human_normalized(score: ArrayLike, random: ArrayLike, human: ArrayLike) -> np.ndarray:
    """Scores on the scale of each game where a random player has 0 and a human 1.

    Args:
        score: (..., G), points.
        random: (G,) or one number, points of a random player.
        human: (G,) or one number, points of a human.

    Returns:
        (..., G), or no axes where everything is one number.

    Raises:
        ValueError: shapes do not fit together, or a human plays like a random player.
    """
    random, human = np.asarray(random, np.float64), np.asarray(human, np.float64)
    if random.ndim > 1 or random.shape != human.shape:
        raise ValueError(f"random and human must both be (G,) or one number, not {random.shape} and {human.shape}")
    if (random == human).any():
        raise ValueError("a human must score otherwise than a random player, or there is no scale")
    score = np.asarray(score, np.float64)
    if random.ndim and score.shape[-1:] != random.shape:
        raise ValueError(f"score must be (..., {len(random)}), a column a game, not {score.shape}")
    return (score - random) / (human - random)


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all scores; a quarter of them, rounded down, is left out at either end.

    Args:
        scores: any shape, taken together; (R, G) for R runs of each of G games.

    Raises:
        ValueError: there is no score, or one that is no number.
    """
    return float(trim_mean(_scores(scores), 0.25, axis=None))


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% interval of a statistic by the percentile bootstrap, runs drawn with replacement within each game.

    Args:
        scores: (R, G), run by game.
        statistic: of an (R, G) array, such as `interquartile_mean` or `numpy.mean`.
        resamples: how often runs are drawn.
        seed: of the draws.

    Returns:
        The two ends, the lower first.

    Raises:
        ValueError: `scores` is not (R, G), or holds what is no number, or `resamples` is below 1.
    """
    table = _scores(scores)
    if table.ndim != 2:
        raise ValueError(f"scores must be (R, G), run by game, not {table.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    draws = np.random.default_rng(seed).integers(len(table), size=(resamples, *table.shape))
    drawn = np.take_along_axis(table[None], draws, axis=1)
    low, high = np.quantile([statistic(sample) for sample in drawn], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(scores: ArrayLike) -> tuple[float, float]:
    """95% interval of the mean score of one game, by Student's t over its runs.

    Args:
        scores: (R,), one for each run, at least two.

    Raises:
        ValueError: `scores` is not (R,) with R of at least 2, or holds what is no number.
    """
    runs = _scores(scores)
    if runs.ndim != 1 or len(runs) < 2:
        raise ValueError(f"an interval needs (R,) scores of at least two runs, not {runs.shape}")
    half = float(t.ppf((1 + LEVEL) / 2, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs)))
    return float(runs.mean()) - half, float(runs.mean()) + half


def _scores(scores: ArrayLike) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    if not array.size:
        raise ValueError("there must be at least one score")
    if not np.isfinite(array).all():
        raise ValueError("every score must be a finite number")
    return array
