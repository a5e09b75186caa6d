"""Doubly robust: importance sampling of what a value function got wrong, so that either of the two may be.

    DR_i = V(s_0) + sum_t gamma^t w_t (r_t + gamma V(s_{t+1}) - Q(s_t, a_t))         Jiang & Li 2016, arXiv 1511.03722

WDR (Thomas & Brunskill 2016, arXiv 1604.00923) normalizes w_t over the episodes, and is consistent instead of unbiased.
Q and V come from ensemble members that never saw the episode they correct.
"""

from __future__ import annotations

import numpy as np

from ..replay.by_episode import draws
from ..statistics import Interval
from .chunks import Chunks
from .importance import complete, paths, weights


def corrections(chunks: Chunks, q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64[E, L]: gamma^t times the temporal-difference error of q, v float64[D] along every episode."""
    ahead = np.where(chunks.discount == 0, 0.0, chunks.discount * v[chunks.following])
    error = chunks.target.gamma ** chunks.step.astype(float) * (chunks.reward + ahead - q)
    return paths(chunks, error, 0.0)


def doubly_robust(chunks: Chunks, log_ratio: np.ndarray, q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64[E'], one unbiased estimate per episode that was seen to its end; their mean is DR."""
    whole = complete(chunks)
    error, start = corrections(chunks, q, v)[whole], v[chunks.first][whole]
    return start + (weights(chunks, log_ratio)[whole] * error).sum(1)


def weighted(
    chunks: Chunks, log_ratio: np.ndarray, q: np.ndarray, v: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Interval:
    """WDR; percentile interval over resampled episodes, which holds Q and V fixed."""
    whole = complete(chunks)
    weight, error = weights(chunks, log_ratio)[whole], corrections(chunks, q, v)[whole]
    weight, start = weight / weight.max(0), v[chunks.first][whole]
    drawn = draws(len(weight), resamples, seed)
    with np.errstate(invalid="ignore"):
        found = drawn @ start / len(start) + np.nansum((drawn @ (weight * error)) / (drawn @ weight), 1)
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Interval(float(found[0]), float(low), float(high))
