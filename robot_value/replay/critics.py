"""Is the critic right about what it says? Its value V of the chunk that was really executed against what then happened.

Realised return G_t = r_t + gamma G_{t+1}, as far as it was seen: where time ran out it is a lower bound (rewards >= 0).
Reliability and ECE: Guo et al. 2017. All intervals are 95 %, from a bootstrap over whole episodes.
Shape letters: D decisions, E episodes, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..results import plain
from ..statistics import Interval, reliability
from . import by_episode
from .by_episode import Resampled
from .replayed import Replayed
from .temporal import Order, Residuals, order, residuals, within


@dataclass(frozen=True)
class Config:
    bins: int = 10  # of a reliability diagram, equal counts (deciles)
    resamples: int = 1000  # of a bootstrap over episodes
    worst: int = 20  # moments with the largest temporal-difference residual that are named
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True)
class Diagram:
    """Bins of equal count, sorted by what was predicted."""

    predicted: np.ndarray  # float64[bins], mean
    realised: np.ndarray  # float64[bins], mean
    low: np.ndarray  # float64[bins], interval of `realised`
    high: np.ndarray  # float64[bins]
    count: np.ndarray  # int64[bins]


@dataclass(frozen=True)
class Calibration:
    """An ECE is never negative: noise raises it, so that few episodes make any critic look a little wrong."""

    diagram: Diagram
    ece: Interval  # mean over bins of |V - G|, in units of return
    bias: Interval  # mean of V - G; positive: the critic promises too much
    skill: Interval  # 1 - mean (V - G)^2 / var G; 1: perfect, at 0 or below the mean return alone says as much
    lower_bounds: float  # share of decisions in episodes whose time ran out, G of which is a lower bound
    unseen: float  # mean over those of gamma^(steps to the end): what each unit of return after it could add to G
    ece_terminated: Interval  # without them. Where failures are time-outs, this one sees successes only


@dataclass(frozen=True)
class Ranking:
    """Spearman's rank correlation of V and G."""

    overall: Interval  # over all decisions
    within: Interval  # mean over episodes of the one inside; NaN for an episode of constant return
    across: Interval  # one pair per episode: mean value, mean return


@dataclass(frozen=True)
class Spread:
    """Does the ensemble know when it errs?"""

    rank: Interval  # Spearman of spread and |V - G|; 0: its spread says nothing; NaN: there is no spread
    diagram: Diagram | None  # spread as prediction, |V - G| as what was realised


@dataclass(frozen=True)
class Diagnosis:
    critic: str
    decisions: int  # with a value of the logged chunk
    calibration: Calibration
    ranking: Ranking
    order: Order
    residuals: Residuals
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        """All but what has a number per episode or decision."""
        found = asdict(self)
        del found["order"]["voc"], found["residuals"]["residual"]
        return plain(found)


def diagnose(replayed: Replayed, critic: str, config: Config = Config()) -> Diagnosis:
    drawn = by_episode.draws(len(replayed.episodes), config.resamples, config.seed)
    opinion = replayed.opinions[critic]
    value = _known(opinion.logged_value, critic)
    return Diagnosis(
        critic=critic,
        decisions=int(np.isfinite(value).sum()),
        calibration=calibration(replayed, value, drawn, config.bins),
        ranking=ranking(replayed, value, drawn),
        order=order(replayed, value, drawn),
        residuals=residuals(replayed, value, drawn, config.worst),
        spread=spread(replayed, value, opinion.logged_spread.astype(float), drawn, config.bins),
    )


def calibration(replayed: Replayed, value: np.ndarray, drawn: np.ndarray, bins: int) -> Calibration:
    returns, episode = replayed.returns, replayed.episode
    timed_out = ~np.array([e.terminated for e in replayed.episodes])[episode]
    left = np.array([e.steps for e in replayed.episodes])[episode] - replayed.step
    scored = np.isfinite(value)
    diagram, error = _diagram(value, returns, episode, drawn, bins)
    terminated = np.where(timed_out, np.nan, value)
    return Calibration(
        diagram=diagram,
        ece=error.interval,
        bias=by_episode.mean(value - returns, episode, drawn).interval,
        skill=_skill(value, returns, episode, drawn).interval,
        lower_bounds=float(timed_out[scored].mean()),
        unseen=float((replayed.gamma ** left[scored & timed_out]).mean()) if (scored & timed_out).any() else 0.0,
        ece_terminated=ece(terminated, returns, episode, drawn, bins).interval,
    )


def ranking(replayed: Replayed, value: np.ndarray, drawn: np.ndarray) -> Ranking:
    returns, each = replayed.returns, np.arange(len(replayed.episodes))
    means = [_mean_by_episode(replayed, column) for column in (value, returns)]
    return Ranking(
        overall=by_episode.spearman(value, returns, replayed.episode, drawn).interval,
        within=by_episode.mean(within(replayed, value, returns), each, drawn).interval,
        across=by_episode.spearman(*means, each, drawn).interval,
    )


def spread(replayed: Replayed, value: np.ndarray, spread: np.ndarray, drawn: np.ndarray, bins: int) -> Spread:
    error, episode = np.abs(value - replayed.returns), replayed.episode
    spread = np.where(np.isfinite(spread) & np.isfinite(value), spread, np.nan)
    if not np.nanmax(spread, initial=-math.inf) > np.nanmin(spread, initial=math.inf):
        return Spread(Interval(math.nan, math.nan, math.nan), None)
    rank = by_episode.spearman(spread, error, episode, drawn).interval
    return Spread(rank, _diagram(spread, error, episode, drawn, bins)[0])


def ece(value: np.ndarray, returns: np.ndarray, episode: np.ndarray, drawn: np.ndarray, bins: int) -> Resampled:
    """NaN where there is no value at all."""
    if not np.isfinite(value).any():
        return Resampled(math.nan, np.full(len(drawn) - 1, np.nan))
    return _diagram(value, returns, episode, drawn, bins)[1]


def _skill(value: np.ndarray, returns: np.ndarray, episode: np.ndarray, drawn: np.ndarray) -> Resampled:
    of = np.where(np.isfinite(value), returns, np.nan)
    error, first, second = (by_episode.mean(c, episode, drawn) for c in ((value - of) ** 2, of, of**2))
    variance = Resampled(second.estimate - first.estimate**2, second.draws - first.draws**2)
    if not variance.estimate > 1e-12:
        return Resampled(math.nan, np.full(len(error.draws), np.nan))  # all returns are equal: nothing to explain
    known = np.where(variance.draws > 1e-12, variance.draws, np.nan)
    return Resampled(1 - error.estimate / variance.estimate, 1 - error.draws / known)


def _diagram(
    predicted: np.ndarray, realised: np.ndarray, episode: np.ndarray, drawn: np.ndarray, bins: int
) -> tuple[Diagram, Resampled]:
    """Bins of the whole log, kept in every resample, and the ECE."""
    known = np.flatnonzero(np.isfinite(predicted))
    whole = reliability(predicted[known], realised[known], bins)
    in_order = known[np.argsort(predicted[known], kind="stable")]
    bin_ = np.repeat(np.arange(len(whole.count)), whole.count)
    cell = episode[in_order] * len(whole.count) + bin_

    def sums(column: np.ndarray) -> np.ndarray:
        """float64[R + 1, bins]"""
        table = np.bincount(cell, column[in_order], drawn.shape[1] * len(whole.count))
        return drawn @ table.reshape(drawn.shape[1], -1)

    total, happened, count = sums(predicted), sums(realised), sums(np.ones(len(predicted)))
    decisions = count.sum(1)
    error = np.abs(total - happened).sum(1) / np.where(decisions > 0, decisions, np.nan)  # count * |mean - mean|
    resampled = happened[1:] / np.where(count[1:] > 0, count[1:], np.nan)
    low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
    return (
        Diagram(whole.predicted, whole.realised, low, high, whole.count),
        Resampled(float(error[0]), error[1:]),
    )


def _mean_by_episode(replayed: Replayed, column: np.ndarray) -> np.ndarray:
    """float64[E]; NaN where nothing is known."""
    known, episodes = np.isfinite(column), len(replayed.episodes)
    total = np.bincount(replayed.episode[known], column[known], episodes)
    count = np.bincount(replayed.episode[known], minlength=episodes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _known(value: np.ndarray, critic: str) -> np.ndarray:
    if not np.isfinite(value).any():
        raise ValueError(f"critic {critic!r}: expected values of the logged chunks, got none; did it score anything?")
    return value.astype(float)
