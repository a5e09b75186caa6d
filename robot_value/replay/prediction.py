"""How early does the value tell success from failure? AUROC over time, and a failure alarm of fixed false-alarm rate.

The alarm's score is -V of the executed chunk (steering/alarm.py: functional conformal prediction, arXiv 2506.09937). It
is fitted to half of the successes, judged on the other half and on all failures, and the halves change places.
Shape letters: D decisions, E episodes, J decisions of the longest episode.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..results import plain
from ..statistics import Interval, bootstrap, wilson
from ..steering.alarm import Alarm
from . import by_episode
from .replayed import Replayed

NOWHERE = -1


@dataclass(frozen=True)
class Config:
    moments: int = 11  # relative times, 0 (first decision) to 1 (last one)
    steps: int = 8  # fixed control steps, of decisions, evenly up to the last one at which both outcomes still run
    running: int = 5  # successes and failures that must still be running there
    alpha: float = 0.1  # chance that a successful episode ever alarms
    resamples: int = 1000  # of a bootstrap over episodes
    seed: int = 0  # of the bootstrap, and of the halves


@dataclass(frozen=True)
class At:
    """AUROC of the value at one time: chance that a success has a higher one than a failure."""

    time: float  # share of the episode's decisions, or control step
    auroc: Interval
    successes: int  # that were compared
    failures: int


@dataclass(frozen=True)
class Alarms:
    """Cross-fitted: nobody is judged by an alarm that was fitted to it."""

    alpha: float  # false-alarm rate that was asked for
    false_alarms: Interval  # share of successes that alarm; the conformal promise is <= alpha on average
    detected: Interval  # share of failures that alarm
    seconds: float  # median time from a failure's start to its alarm, s; NaN where none alarms
    earliness: float  # median share of a failure's steps that were still to come; NaN where none alarms
    decision: np.ndarray  # int64[E], row of the first alarm; -1: none
    normal: np.ndarray  # float64[J], m_t: mean value of successes at their t-th decision
    floor: np.ndarray  # float64[J], values below it alarm


@dataclass(frozen=True)
class Prediction:
    critic: str
    successes: int
    failures: int
    relative: tuple[At, ...]
    fixed: tuple[At, ...]
    alarms: Alarms | None  # None: too few successes, `why` says how many it takes
    why: str

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        if self.alarms is not None:
            del found["alarms"]["decision"]
        return plain(found)


def predict(replayed: Replayed, critic: str, config: Config = Config()) -> Prediction:
    """Episodes whose outcome nobody knows are left out, but may alarm."""
    value, success = replayed.opinions[critic].logged_value.astype(float), replayed.success
    drawn = by_episode.draws(len(success), config.resamples, config.seed)
    try:
        alarms, why = _alarms(replayed, value, config), ""
    except ValueError as error:
        alarms, why = None, str(error)
    return Prediction(
        critic=critic,
        successes=int((success == 1).sum()),
        failures=int((success == 0).sum()),
        relative=tuple(_at(u, value[rows], success, drawn) for u, rows in relative_rows(replayed, config.moments)),
        fixed=tuple(
            _at(t, np.where(rows >= 0, value[rows], np.nan), success, drawn) for t, rows in fixed_rows(replayed, config)
        ),
        alarms=alarms,
        why=why,
    )


def relative_rows(replayed: Replayed, moments: int) -> list[tuple[float, np.ndarray]]:
    """Relative time and int64[E], each episode's decision then. It takes the end to know: a diagnosis, no predictor."""
    first, last = _ends(replayed)
    return [(float(u), np.rint(first + u * (last - first)).astype(int)) for u in np.linspace(0, 1, moments)]


def fixed_rows(replayed: Replayed, config: Config) -> list[tuple[float, np.ndarray]]:
    """Control step and int64[E], the last decision up to then; -1 for an episode that has ended."""
    steps, success = np.array([e.steps for e in replayed.episodes]), replayed.success
    both = [np.sort(steps[success == s])[::-1] for s in (0, 1)]
    if min(map(len, both)) < config.running:
        return []
    latest = min(s[config.running - 1] for s in both) - 1
    key = replayed.episode * (steps.max() + 1) + replayed.step  # ascends: rows are sorted by episode, then step
    found = []
    due = np.unique(replayed.step[replayed.step <= latest])
    for t in due[np.unique(np.linspace(0, len(due) - 1, config.steps).astype(int))]:
        rows = np.searchsorted(key, np.arange(len(steps)) * (steps.max() + 1) + t, side="right") - 1
        found.append((float(t), np.where(steps > t, rows, NOWHERE)))
    return found


def by_decision(replayed: Replayed, column: np.ndarray) -> np.ndarray:
    """float64[E, J]: column [D], a row per episode, NaN after its end."""
    first, last = _ends(replayed)
    table = np.full((len(first), (last - first).max() + 1), np.nan)
    table[replayed.episode, np.arange(len(column)) - first[replayed.episode]] = column
    return table


def _at(time: float, value: np.ndarray, success: np.ndarray, drawn: np.ndarray) -> At:
    """`value` float64[E] then, NaN where the episode has ended."""
    area = by_episode.auroc(value, success, np.arange(len(value)), drawn)
    of = success[np.isfinite(value)]
    return At(time, area.interval, int((of == 1).sum()), int((of == 0).sum()))


def _alarms(replayed: Replayed, value: np.ndarray, config: Config) -> Alarms:
    scores, success = -by_decision(replayed, value), replayed.success
    won, lost = (np.flatnonzero(success == s) for s in (1, 0))
    halves = np.array_split(np.random.default_rng(config.seed).permutation(won), 2)
    rung = np.zeros((2, *scores.shape), bool)  # by the alarm that was fitted to the one half, and to the other
    for i, half in enumerate(halves):
        rung[i] = Alarm.fit(scores[half], config.alpha).rings(scores)
    alarm = Alarm.fit(scores[won], config.alpha)
    shown = alarm.rings(scores)  # never saw a failure; a success is shown the alarm that never saw it
    shown[halves[0]], shown[halves[1]] = rung[1, halves[0]], rung[0, halves[1]]
    first, _ = _ends(replayed)
    decision = np.where(shown.any(1), first + shown.argmax(1), NOWHERE)
    seconds, earliness = _delays(replayed, rung[:, lost], lost)
    t = np.arange(scores.shape[1])
    return Alarms(
        alpha=config.alpha,
        false_alarms=wilson(int(shown[won].any(1).sum()), len(won)),
        detected=bootstrap(rung[:, lost].any(2).mean(0), config.seed) if len(lost) else Interval(*[math.nan] * 3),
        seconds=seconds,
        earliness=earliness,
        decision=decision,
        normal=-np.asarray(alarm.mean)[t],
        floor=-alarm.band(t),
    )


def _delays(replayed: Replayed, rung: np.ndarray, lost: np.ndarray) -> tuple[float, float]:
    """Median time to alarm and earliness over the failures `lost` that alarm, rung bool[2, failures, J]."""
    first, _ = _ends(replayed)
    fold, failure = np.nonzero(rung.any(2))
    if not len(failure):
        return math.nan, math.nan
    at = replayed.step[first[lost[failure]] + rung[fold, failure].argmax(1)]
    steps = np.array([e.steps for e in replayed.episodes])[lost[failure]]
    return float(np.median(at) * replayed.spec.dt), float(np.median(1 - at / steps))


def _ends(replayed: Replayed) -> tuple[np.ndarray, np.ndarray]:
    """int64[E] each: row of the first and of the last decision."""
    each = np.arange(len(replayed.episodes))
    return tuple(np.searchsorted(replayed.episode, each, side) - (side == "right") for side in ("left", "right"))
