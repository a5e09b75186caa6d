"""The critic's value along an episode: does it rise towards success, and does each value follow from the next?

VOC, rank correlation of value with time in successes: Ma et al. 2024 (GVL). Temporal difference of two neighbouring
decisions, k steps apart:

    delta = r_0 + ... + gamma^(k-1) r_(k-1) + gamma^k V' - V        V' = 0 after a terminated episode
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..statistics import Interval, spearman_within
from . import by_episode
from .replayed import Replayed


@dataclass(frozen=True)
class Order:
    """VOC: Spearman's rank correlation of V and time inside an episode; 1: the value rises at every decision."""

    voc: np.ndarray  # float64[E], NaN where there is nothing to rank
    success: Interval  # mean over successful episodes
    failure: Interval  # the same over failures: as high as in successes, the critic reads the clock


@dataclass(frozen=True)
class Residuals:
    """Temporal difference between an episode's neighbouring decisions, k steps apart."""

    residual: np.ndarray  # float64[D]; NaN at the last decision of an episode whose time ran out
    mean: Interval
    size: Interval  # mean |residual|
    quantiles: np.ndarray  # float64[5], at 1, 25, 50, 75 and 99 %
    worst: np.ndarray  # int64[worst], decisions by |residual|, largest first


def order(replayed: Replayed, value: np.ndarray, drawn: np.ndarray) -> Order:
    voc, each, success = within(replayed, value, replayed.step), np.arange(len(replayed.episodes)), replayed.success
    of = {s: by_episode.mean(np.where(success == s, voc, np.nan), each, drawn).interval for s in (0, 1)}
    return Order(voc, of[1], of[0])


def residuals(replayed: Replayed, value: np.ndarray, drawn: np.ndarray, worst: int) -> Residuals:
    found = temporal_differences(replayed, value)
    known = found[np.isfinite(found)]
    return Residuals(
        residual=found,
        mean=by_episode.mean(found, replayed.episode, drawn).interval,
        size=by_episode.mean(np.abs(found), replayed.episode, drawn).interval,
        quantiles=np.quantile(known, [0.01, 0.25, 0.5, 0.75, 0.99]) if len(known) else np.full(5, np.nan),
        worst=np.argsort(-np.abs(np.nan_to_num(found)), kind="stable")[: min(worst, len(known))],
    )


def temporal_differences(replayed: Replayed, value: np.ndarray) -> np.ndarray:
    """delta float64[D], NaN where not known. The k rewards are what realised returns differ by: G - gamma^k G'."""
    episode, step, ahead = replayed.episode, replayed.step, replayed.returns - value  # what is still to come
    last = np.append(episode[1:] != episode[:-1], True)
    following = np.append(ahead[1:], 0.0)  # G' - V'
    k = np.append(step[1:], 0) - step
    ended = np.where(np.array([e.terminated for e in replayed.episodes])[episode], ahead, np.nan)
    return np.where(last, ended, ahead - replayed.gamma ** np.where(last, 0, k) * following)


def within(replayed: Replayed, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64[E]: Spearman of the finite pairs of each episode."""
    rows = [replayed.rows(e) for e in range(len(replayed.episodes))]
    pairs = [(x[r][np.isfinite(x[r])], y[r][np.isfinite(x[r])]) for r in rows]
    return spearman_within([x for x, _ in pairs], [y for _, y in pairs])
