"""Bounds that need no model and hold for any finite number of episodes, as far as the densities are right.

X = min(w, c) * G never has a larger mean than w * G, for G in [0, 1] and the whole episode's weight w, so that a lower
bound on E X bounds the value from below (Thomas, Theocharous & Ghavamzadeh 2015). Of E X (Maurer & Pontil 2009):

    E X >= mean - sqrt(2 var ln(2/d) / n) - 7 c ln(2/d) / (3 (n - 1))          each side with d = 0.025

The upper bound is 1 minus the lower bound of 1 - G. On the log's own policy (w = 1) successes are counted exactly:
Clopper & Pearson 1934.
"""

from __future__ import annotations

import math

import numpy as np

from ..statistics import Interval

DELTA = 0.025  # chance that one side fails


def bernstein_low(x: np.ndarray, largest: float, delta: float = DELTA) -> float:
    """Lower bound on the mean of what x float64[n] in [0, largest] was drawn from."""
    n = len(x)
    if n < 2 or x.min() < 0 or x.max() > largest * (1 + 1e-9):
        got = f"{n} numbers" if n < 2 else f"{n} in [{x.min():g}, {x.max():g}]"
        raise ValueError(f"expected at least 2 numbers in [0, {largest:g}], got {got}")
    log = math.log(2 / delta)
    return float(x.mean() - math.sqrt(2 * x.var(ddof=1) * log / n) - 7 * largest * log / (3 * (n - 1)))


def clipped(weight: np.ndarray, returns: np.ndarray, clip: float = 5.0) -> Interval:
    """weight float64[E] of whole episodes, unnormalized, and returns float64[E] in [0, 1]; `clip` is set beforehand."""
    sides = [bernstein_low(np.minimum(weight, clip) * side, clip) for side in (returns, 1 - returns)]
    low, high = max(0.0, sides[0]), 1 - max(0.0, sides[1])
    estimate = float((np.minimum(weight, clip) * returns).mean())
    return Interval(float(np.clip(estimate, low, high)), low, high)


def on_policy(successes: int, n: int) -> Interval:
    """The rate of a policy that made the log itself."""
    from scipy import stats

    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    found = stats.binomtest(successes, n).proportion_ci(1 - 2 * DELTA, "exact")
    return Interval(successes / n, float(found.low), float(found.high))
