"""Intervals and tests for success rates measured on paired seeds; every figure on a page comes from here.

Wilson 1927 (rates), percentile bootstrap (differences and ratios), exact McNemar and Tango (paired binary outcomes).
Shape letters here: R training seeds, S environment seeds, G groups (decision points), N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; low and high are NaN where the data cannot bound it."""

    mean: float
    low: float
    high: float

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a rate: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = float(stats.norm.ppf((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and p = 1 the bound is exactly 0 or 1; rounding must not push the estimate outside its own interval.
    return Interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def bootstrap(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, training: bool = False) -> Interval:
    """Percentile interval of the mean of values [S] or [R, S], resampling environment seeds.

    Rows of a matrix share their environment seeds, so that a resampled seed takes its whole column along. `training`
    resamples the rows (training seeds) as well: the crossed, two-level interval. With few rows it is too narrow.
    """
    values = np.atleast_2d(np.asarray(values, float))  # [R, S]
    _not_empty(values)
    means = _counts(seed, 0, values.shape[1], resamples) @ values.T / values.shape[1]  # [resamples, R]
    rows = _counts(seed, 1, len(values), resamples) if training else np.ones((resamples, len(values)))
    return _percentiles(float(values.mean()), (rows * means).sum(1) / len(values))


def paired_difference(arm: np.ndarray, against: np.ndarray, seed: int = 0, training: bool = False) -> Interval:
    """Mean of arm - against over paired outcomes [S] or [R, S], with its bootstrap interval."""
    arm, against = np.asarray(arm, float), np.asarray(against, float)
    if arm.shape != against.shape:
        raise ValueError(f"paired outcomes need equal shapes, got {arm.shape} against {against.shape}")
    return bootstrap(arm - against, seed, training=training)


def mcnemar(arm: np.ndarray, against: np.ndarray) -> float:
    """Exact two-sided p: the discordant pairs are fair coin flips where the arms are equally good."""
    arm, against = np.asarray(arm, bool), np.asarray(against, bool)
    if arm.shape != against.shape:
        raise ValueError(f"paired outcomes need equal shapes, got {arm.shape} against {against.shape}")
    wins, losses = int((arm & ~against).sum()), int((~arm & against).sum())
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def noninferiority(arm: np.ndarray, against: np.ndarray, margin: float) -> float:
    """One-sided p of "arm is worse than `against` by `margin` or more", for paired outcomes of any equal shape.

    Tango's score test (1998): the variance is that of the likeliest win and loss rates p, q with p - q = -margin.
    """
    arm, against = np.asarray(arm, bool), np.asarray(against, bool)
    if arm.shape != against.shape or not arm.size or not 0 < margin < 1:
        raise ValueError(f"expected paired outcomes and 0 < margin < 1, got {arm.shape}, {against.shape} and {margin}")
    n, wins, losses = arm.size, int((arm & ~against).sum()), int((~arm & against).sum())
    # d/dp of wins ln p + losses ln(p + margin) + (n - wins - losses) ln(1 - 2 p - margin) is 0 where a p^2 + b p + c is
    a, b, c = 2 * n, (2 * n + wins - losses) * margin - wins - losses, -wins * margin * (1 - margin)
    p = (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
    variance = 2 * p + margin - margin**2
    return float(stats.norm.sf(((wins - losses) / n + margin) / math.sqrt(variance / n)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down p-values float64[G]: below alpha with family-wise error alpha (Holm 1979)."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """mean(numerator) / mean(denominator) over independent units [S], resampled together.

    Where more than 2.5 % of the resampled denominators are not positive, the ratio has no bound: the interval is NaN.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    if numerator.shape != denominator.shape or numerator.ndim != 1:
        raise ValueError(f"a ratio needs two equal vectors, got {numerator.shape} and {denominator.shape}")
    _not_empty(numerator)
    counts = _counts(seed, 0, len(numerator), resamples)
    above, below = counts @ numerator, counts @ denominator
    if denominator.mean() <= 0:
        return Interval(math.nan, math.nan, math.nan)
    estimate = float(numerator.mean() / denominator.mean())
    if (below <= 0).mean() > 0.025:
        return Interval(estimate, math.nan, math.nan)
    return _percentiles(estimate, above[below > 0] / below[below > 0])


def spearman_within(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
    """Spearman's rank correlation inside each group [G]; NaN where x or y is constant (no ranking to agree with)."""
    return np.array([_spearman(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(x, y, strict=True)])


def auroc(score: np.ndarray, success: np.ndarray) -> float:
    """Probability that a success scores above a failure, ties counting half; NaN where one class is missing."""
    score, success = np.asarray(score, float), np.asarray(success, bool)
    positive, negative = int(success.sum()), int((~success).sum())
    if not positive or not negative:
        return math.nan
    ranks = stats.rankdata(score)
    return float((ranks[success].sum() - positive * (positive + 1) / 2) / (positive * negative))


@dataclass(frozen=True)
class Reliability:
    """Predicted against realised, in bins of equal count; ece is the count-weighted mean absolute gap."""

    predicted: np.ndarray  # float64[bins], mean prediction
    realised: np.ndarray  # float64[bins], mean outcome
    count: np.ndarray  # int64[bins]
    ece: float


def reliability(predicted: np.ndarray, realised: np.ndarray, bins: int = 10) -> Reliability:
    """Sort by prediction and cut into bins of (almost) equal count."""
    predicted, realised = np.asarray(predicted, float), np.asarray(realised, float)
    if predicted.shape != realised.shape or predicted.ndim != 1:
        raise ValueError(f"reliability needs two equal vectors, got {predicted.shape} and {realised.shape}")
    _not_empty(predicted)
    groups = [group for group in np.array_split(np.argsort(predicted, kind="stable"), bins) if len(group)]
    means = np.array([[predicted[group].mean(), realised[group].mean(), len(group)] for group in groups])
    gap = np.abs(means[:, 0] - means[:, 1])
    ece = float((gap * means[:, 2]).sum() / len(predicted))
    return Reliability(means[:, 0], means[:, 1], means[:, 2].astype(np.int64), ece)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or not np.isfinite([x, y]).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


@lru_cache(maxsize=4)  # the arms of a table share their seeds, and so their resamples
def _counts(seed: int, level: int, n: int, resamples: int) -> np.ndarray:
    """float64[resamples, n]: how often each unit was drawn in a resample with replacement."""
    drawn = np.random.default_rng([seed, level]).integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _percentiles(estimate: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def _not_empty(values: np.ndarray) -> None:
    if values.size == 0:
        raise ValueError("no outcomes to summarise: every seed was excluded or none was run")
