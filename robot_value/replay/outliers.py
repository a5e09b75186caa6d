"""Which episodes look like nothing the models have seen? Distance to nearest neighbours, with a conformal threshold.

A decision is its state and the chunk that was executed, each scaled to unit variance and divided by its own length, so
that both count the same; x_d is the mean distance to the k nearest decisions (Sun et al. 2022) of the reference: other
episodes of the log, or training data. An episode is as strange as its strangest decision:

    S_e = max_d x_d        p_e = (1 + #{j != e: S_j >= S_e}) / E        flagged: p_e <= alpha

Of E episodes that are exchangeable at most about alpha E are flagged (Bates et al. 2023), and about that many always
are: `excess` says how far beyond the threshold an episode is, and a log is strange where more than alpha E are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..results import plain
from ..statistics import Interval, wilson
from .replayed import Replayed

if TYPE_CHECKING:
    from .scribe import Moment

BLOCK = 1024  # decisions whose distances are in memory at once


@dataclass(frozen=True)
class Config:
    neighbours: int = 5  # k
    reference: int = 4096  # decisions compared with, at most; drawn at random from more
    alpha: float = 0.01  # chance that an episode like the others is flagged
    seed: int = 0  # of the draw


@dataclass(frozen=True)
class Outliers:
    distance: np.ndarray  # float64[D], x_d
    nearest: np.ndarray  # float64[D], distance to the nearest one alone: 0 where something was recorded twice
    p: np.ndarray  # float64[E]
    excess: np.ndarray  # float64[E], S_e / threshold of the other episodes; above 1: flagged; 0: no threshold
    alpha: float
    flagged: tuple[str, ...]  # names, strangest first
    rate: Interval  # share of episodes that are flagged

    def to_json(self) -> dict[str, Any]:
        """All but what has a number per decision or episode."""
        kept = asdict(self)
        return plain({name: kept[name] for name in ("alpha", "flagged", "rate")})


class States:
    """An Onlooker: the last state of every decision's history, as column "state" float32[D, S]."""

    def look(self, moment: Moment) -> Mapping[str, np.ndarray]:
        return {"state": moment.observation.state[:, -1]}


def outliers(replayed: Replayed, training: Replayed | None = None, config: Config = Config()) -> Outliers:
    """Against the rest of the log, or against `training`, episodes of which then say what is normal."""
    seen = replayed if training is None else training
    centre, scale = _scales(seen)
    known = _points(seen, centre, scale)
    distance, nearest = _distances(_points(replayed, centre, scale), _own(replayed, seen), known, seen.episode, config)
    strangest = _strangest(replayed, distance)
    calibration = strangest
    if training is not None:
        calibration = _strangest(seen, _distances(known, seen.episode, known, seen.episode, config)[0])
    p, excess = _judge(strangest, calibration, training is None, config.alpha)
    order = np.argsort(-excess, kind="stable")
    flagged = tuple(replayed.episodes[e].name for e in order if p[e] <= config.alpha)
    return Outliers(distance, nearest, p, excess, config.alpha, flagged, wilson(len(flagged), len(p)))


def _judge(strangest: np.ndarray, calibration: np.ndarray, leave_out: bool, alpha: float) -> tuple[np.ndarray, ...]:
    """p and excess float64[E]; in a log judged by itself, each episode is judged by the others."""
    ascending = np.sort(calibration)
    n = len(ascending) - leave_out  # calibration episodes of each one
    as_strange = len(ascending) - np.searchsorted(ascending, strangest, side="left") - leave_out
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)  # 1e-9: may round up a whole number
    if rank > n:
        return (1 + as_strange) / (n + 1), np.zeros(len(strangest))
    # Without itself, the rank-th smallest of the others is one further up for those at or below it.
    own = np.searchsorted(ascending, strangest, side="left")
    at = rank - 1 + (leave_out & (own <= rank - 1))
    return (1 + as_strange) / (n + 1), strangest / np.maximum(ascending[at], 1e-12)


def _distances(
    points: np.ndarray, episode: np.ndarray, known: np.ndarray, known_episode: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """float64[D] each: mean distance to the k nearest of `known` that are not of the same episode, and to the first."""
    drawn = np.random.default_rng(config.seed).permutation(len(known))[: config.reference]
    known, known_episode = known[drawn], known_episode[drawn]
    if len(np.unique(known_episode)) < 2:
        raise ValueError("outliers: expected at least two episodes to compare, got one; replay a longer log")
    k = min(config.neighbours, len(known))
    found = np.empty((len(points), k))
    for begin in range(0, len(points), BLOCK):
        block = slice(begin, begin + BLOCK)
        square = (points[block] ** 2).sum(1)[:, None] + (known**2).sum(1) - 2 * points[block] @ known.T
        square[episode[block, None] == known_episode] = np.inf
        k_nearest = np.sort(np.partition(square, k - 1, axis=1)[:, :k], axis=1)
        found[block] = np.sqrt(np.maximum(k_nearest, 0))
    return np.nanmean(np.where(np.isfinite(found), found, np.nan), 1), found[:, 0]


def _own(replayed: Replayed, seen: Replayed) -> np.ndarray:
    """int64[D], number in `seen` of each decision's own episode; -1 where another log was seen."""
    return replayed.episode if seen is replayed else np.full(len(replayed), -1)


def _points(replayed: Replayed, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (_raw(replayed) - centre) / scale


def _scales(seen: Replayed) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale float64[S + H * A]; a dimension that never moves in training has the scale of those that do."""
    raw, states = _raw(seen), seen.columns["state"].shape[1]
    deviation = raw.std(0)
    moving = deviation > 1e-6 * np.abs(raw).max(0, initial=1e-6)
    typical = np.median(deviation[moving]) if moving.any() else 1.0
    lengths = np.repeat([states, raw.shape[1] - states], [states, raw.shape[1] - states])
    return raw.mean(0), np.where(moving, deviation, typical) * np.sqrt(lengths)


def _raw(replayed: Replayed) -> np.ndarray:
    """float64[D, S + H * A]"""
    if "state" not in replayed.columns:
        raise ValueError("outliers: expected a column 'state', got none; replay with the onlooker States")
    return np.concatenate([replayed.columns["state"], replayed.logged.reshape(len(replayed), -1)], 1).astype(float)


def _strangest(replayed: Replayed, distance: np.ndarray) -> np.ndarray:
    """S_e float64[E]"""
    first = np.searchsorted(replayed.episode, np.arange(len(replayed.episodes)))
    return np.maximum.reduceat(distance, first)
