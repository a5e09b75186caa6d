"""Statistics of decisions with intervals that respect their episodes: a resample draws whole episodes with replacement.

Every statistic is computed with weights (how often its episode was drawn), so that two statistics from the same draws
can be subtracted draw by draw: that is a paired difference (Efron & Tibshirani 1993, ch. 8; Field & Welsh 2007).
Shape letters: D decisions, E episodes, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..statistics import Interval

UNBOUNDED = 0.025  # share of resamples without the statistic from which on the data cannot bound it


@dataclass(frozen=True)
class Resampled:
    estimate: float
    draws: np.ndarray  # float64[R]; NaN where a resample does not have the statistic

    def __sub__(self, other: Resampled) -> Resampled:
        """Paired, if both were computed from the same draws."""
        return Resampled(self.estimate - other.estimate, self.draws - other.draws)

    @property
    def interval(self) -> Interval:
        known = self.draws[np.isfinite(self.draws)]
        if not math.isfinite(self.estimate) or len(known) < (1 - UNBOUNDED) * len(self.draws):
            return Interval(self.estimate, math.nan, math.nan)
        return Interval(self.estimate, *map(float, np.quantile(known, [0.025, 0.975])))


def draws(episodes: int, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """float64[R + 1, E]: how often each episode was drawn; the first row is the data itself, each once."""
    if episodes < 1:
        raise ValueError("expected at least one episode, got none; is the log empty?")
    drawn = np.random.default_rng(seed).multinomial(episodes, np.full(episodes, 1 / episodes), resamples)
    return np.concatenate([np.ones((1, episodes)), drawn])


def mean(values: np.ndarray, episode: np.ndarray, drawn: np.ndarray) -> Resampled:
    """Of values float[D] of episodes int64[D]; NaN are left out."""
    known = np.isfinite(values)
    total = np.bincount(episode[known], values[known], drawn.shape[1])
    count = np.bincount(episode[known], minlength=drawn.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return _resampled((drawn @ total) / (drawn @ count))


def spearman(x: np.ndarray, y: np.ndarray, episode: np.ndarray, drawn: np.ndarray) -> Resampled:
    """Rank correlation of x and y float[D]; pairs with a NaN are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    (_, x), (_, y) = (np.unique(a[known], return_inverse=True) for a in (x, y))
    return _each(lambda w: _correlation(_ranks(x, w), _ranks(y, w), w), episode[known], drawn)


def auroc(score: np.ndarray, success: np.ndarray, episode: np.ndarray, drawn: np.ndarray) -> Resampled:
    """Chance that a success scores above a failure, ties half; score float[D], success float[D], NaN: left out."""
    known = np.isfinite(score) & np.isfinite(success)
    positive, (_, order) = success[known] == 1, np.unique(score[known], return_inverse=True)

    def area(weight: np.ndarray) -> float:
        above, below = weight * positive, weight * ~positive
        pairs = above.sum() * below.sum()
        if not pairs:
            return math.nan
        mass = np.bincount(order, below)
        return float(above @ (np.cumsum(mass) - mass / 2)[order] / pairs)

    return _each(area, episode[known], drawn)


def _each(statistic: Callable[[np.ndarray], float], episode: np.ndarray, drawn: np.ndarray) -> Resampled:
    return _resampled(np.array([statistic(weight[episode]) for weight in drawn]))


def _resampled(found: np.ndarray) -> Resampled:
    return Resampled(float(found[0]), found[1:])


def _ranks(order: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Midranks float64[D] when row d is there weight_d times; `order` int64[D] numbers the distinct values."""
    mass = np.bincount(order, weight)
    return (np.cumsum(mass) - mass / 2)[order]


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    total = weight.sum()
    if not total:
        return math.nan
    x, y = x - weight @ x / total, y - weight @ y / total
    scale = math.sqrt((weight @ x**2) * (weight @ y**2))
    return float(weight @ (x * y)) / scale if scale > 1e-12 * total**3 else math.nan
