"""A failure alarm with a guaranteed false-alarm level: functional conformal prediction (SAFE, arXiv 2506.09937).

Half of the successful calibration episodes gives the mean m_t and the modulation s_t of a failure score over time, the
n episodes of the other half say how far a successful episode strays at most:

    D_j = max_t (score_jt - m_t) / s_t        q = the ceil((n + 1)(1 - alpha))-th smallest D_j
    alarm: score_t > m_t + q s_t

A new successful episode is exchangeable with those n, so that it ever alarms with chance <= alpha, whatever the score,
its correlation over time, and its length (past the longest calibration episode the band stays where it was).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..episodes.durable import replace_file
from ..untrusted import check_version, read_json
from .setups import Setup

FORMAT_VERSION = 1
FLOOR = 0.1  # of the typical modulation: a moment at which all calibration episodes agreed must not alarm at a breath


@dataclass(frozen=True)
class Alarm:
    mean: tuple[float, ...]  # m_t of T decisions
    modulation: tuple[float, ...]  # s_t
    quantile: float  # q
    alpha: float  # chance that a successful episode ever alarms
    episodes: int  # successful episodes it was calibrated on
    score: str  # what was scored; larger is worse
    setup: Setup | None = None  # what it was calibrated for; None: nobody said

    @classmethod
    def fit(cls, scores: np.ndarray, alpha: float = 0.1, score: str = "", setup: Setup | None = None) -> Alarm:
        """From scores float[episodes, T] of successful episodes only; NaN after an episode's end or where unknown."""
        scores = np.asarray(scores, float)
        _check(scores, alpha)
        shape, judge = scores[0::2], scores[1::2]
        mean, modulation = over_time(shape)
        furthest = np.sort(_furthest(judge, mean, modulation))
        rank = math.ceil((len(judge) + 1) * (1 - alpha) - 1e-9)  # 1e-9: (n + 1)(1 - alpha) may round up a whole number
        return cls(tuple(mean), tuple(modulation), float(furthest[rank - 1]), alpha, len(scores), score, setup)

    def band(self, steps: np.ndarray) -> np.ndarray:
        """float64[...]: the highest score that is still normal at decision numbers `steps` int64[...]."""
        t = np.minimum(steps, len(self.mean) - 1)
        return np.asarray(self.mean)[t] + self.quantile * np.asarray(self.modulation)[t]

    def rings(self, scores: np.ndarray) -> np.ndarray:
        """bool[episodes, T]: from an episode's first alarm on; scores float[episodes, T]."""
        above = scores > self.band(np.arange(scores.shape[1]))  # NaN is no alarm
        return np.logical_or.accumulate(above, axis=1)

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2, allow_nan=False) + "\n"
        replace_file(path, text.encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Alarm:
        data = check_version(read_json(path), FORMAT_VERSION, f"{path}: an alarm")
        try:
            lists = {name: tuple(map(float, data.pop(name))) for name in ("mean", "modulation")}
            numbers = {name: float(data.pop(name)) for name in ("quantile", "alpha")}
            setup = data.pop("setup", None)
            return cls(**lists, **numbers, **data, setup=None if setup is None else Setup(**setup))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not an alarm ({error}); write it with Alarm.save") from error


class Monitor:
    """The alarm of B live robots: counts each one's decisions, and stays on until its episode ends."""

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.reset()

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """A new episode for `rows`, for all without rows."""
        if rows is None:
            self.episode, self.step, self.on = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
        elif len(self.on):
            self.step[rows], self.on[rows] = 0, False

    def __call__(self, score: np.ndarray, episode: np.ndarray) -> np.ndarray:
        """bool[B]: whether this episode has alarmed by now; score float[B], episode int64[B] its key."""
        if len(self.on) != len(score):
            self.step, self.on = np.zeros(len(score), np.int64), np.zeros(len(score), bool)
            self.episode = episode
        self.reset(np.flatnonzero(self.episode != episode))
        self.on |= score > self.alarm.band(self.step)
        self.step += 1
        self.episode = episode.copy()
        return self.on.copy()


def _check(scores: np.ndarray, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a chance of false alarm between 0 and 1, got {alpha}")
    needed = 2 * max(2, math.ceil(1 / alpha - 1e-9) - 1)
    if scores.ndim != 2 or len(scores) < needed or not np.isfinite(scores).any(1).all() or np.isinf(scores).any():
        raise ValueError(
            f"scores: expected [episodes, T] of at least {needed} successful episodes for alpha={alpha}, each with "
            f"finite scores, got {list(scores.shape)}; record more episodes or accept more false alarms"
        )


def over_time(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and modulation float64[T] of scores [episodes, T]; where fewer than two are known, as the moment before."""
    known = np.isfinite(scores)
    count = known.sum(0)
    mean = np.where(known, scores, 0.0).sum(0) / np.maximum(count, 1)
    deviation = np.sqrt((np.where(known, scores - mean, 0.0) ** 2).sum(0) / np.maximum(count - 1, 1))
    enough = np.flatnonzero(count >= min(2, count.max()))
    before = enough[np.maximum(np.searchsorted(enough, np.arange(len(mean)), side="right") - 1, 0)]
    typical = float(np.sqrt((deviation[enough] ** 2).mean())) or 1.0
    return mean[before], np.maximum(deviation[before], FLOOR * typical)


def _furthest(scores: np.ndarray, mean: np.ndarray, modulation: np.ndarray) -> np.ndarray:
    """D_j float64[episodes]."""
    strayed = (scores - mean) / modulation
    return np.where(np.isnan(strayed), -np.inf, strayed).max(1)
