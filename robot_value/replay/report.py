"""What a page about a log is made of. Everything but `replayed` and `log` is optional: a page needs no diagnosis.

Shape letters: D decisions, E episodes, A action dims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from ..episodes.findings import Finding
from ..statistics import Interval, auroc
from ..steering.alarm import Alarm
from .logged_robot import Log
from .replayed import Replayed


@dataclass(frozen=True)
class Mark:
    """A moment that deserves a look."""

    episode: int  # number in `replayed.episodes`
    step: int  # t, control step
    what: str  # e.g. "value drops by 0.41"


@dataclass(frozen=True)
class Section:
    """What one diagnosis found."""

    title: str
    figures: Sequence[tuple[str, str, str]] = ()  # title, <svg> of report_plots, caption in plain words
    lines: Sequence[str] = ()  # sentences above the figures


@dataclass(frozen=True)
class Report:
    replayed: Replayed
    log: Log  # where states and frames are read from
    title: str = "Replay"
    headline: str = ""  # in plain words; "": `headline(replayed)`
    lines: Sequence[str] = ()  # further sentences under it
    command: str = ""  # that leads to this page
    findings: Sequence[Finding] = ()  # warnings, the worst first
    marks: Sequence[Mark] = ()  # the most interesting first
    sections: Sequence[Section] = ()
    limits: Mapping[str, np.ndarray] = field(default_factory=dict)  # critic -> float64[D], lowest value still normal
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # episode's name -> sentences about it

    def __post_init__(self) -> None:
        episodes, decisions = len(self.replayed.episodes), len(self.replayed)
        if bad := [mark for mark in self.marks if not 0 <= mark.episode < episodes]:
            raise ValueError(f"marks: expected numbers of episodes below {episodes}, got {bad[0].episode}")
        for critic, limit in self.limits.items():
            if critic not in self.replayed.opinions or np.shape(limit) != (decisions,):
                raise ValueError(
                    f"limits: expected [{decisions}] for one of the critics {sorted(self.replayed.opinions)}, got "
                    f"{list(np.shape(limit))} for {critic!r}"
                )

    def alarms(self, critic: str) -> np.ndarray:
        """int64[E]: step of each episode's first decision whose value is below the limit; -1: none."""
        found = np.full(len(self.replayed.episodes), -1, np.int64)
        if critic in self.limits:
            below = np.flatnonzero(self.replayed.opinions[critic].logged_value < self.limits[critic])[::-1]
            found[self.replayed.episode[below]] = self.replayed.step[below]  # backwards: the first one stays
        return found


def limit_of(alarm: Alarm, replayed: Replayed) -> np.ndarray:
    """float64[D], lowest normal value of an alarm that was calibrated on scores = -value."""
    first = np.searchsorted(replayed.episode, replayed.episode)  # row of the episode's first decision
    return -alarm.band(np.arange(len(replayed)) - first)


def detour(replayed: Replayed, rows: slice = slice(None)) -> np.ndarray:
    """float64[D]: how far steering's chunk is from the executed one over min(length, k) steps, in action ranges:

    mean over steps and dims of |chosen - logged| / (high - low).
    """
    chosen, logged = replayed.chosen[rows].astype(np.float64), replayed.logged[rows]
    away = (np.abs(chosen - logged) / replayed.span).mean(2)  # [D, H]
    seen = np.arange(replayed.horizon) < np.minimum(replayed.length[rows], replayed.execute)[:, None]
    return np.where(seen, away, 0.0).sum(1) / np.maximum(seen.sum(1), 1)


def headline(replayed: Replayed) -> str:
    """Would steering have chosen otherwise, and does its critic know successes from failures?"""
    if not len(replayed):
        return "No decision was replayed."
    away = _means(replayed, detour(replayed))
    half = 1.96 * away.std(ddof=1) / len(away) ** 0.5 if len(away) > 1 else math.nan  # episodes are independent
    where = _percent(Interval(float(away.mean()), max(0.0, away.mean() - half), away.mean() + half))
    if replayed.main is None:
        return f"Without a critic: what the policy proposes lies {where} of the action range from what was executed."
    return f"Steering would have gone {where} of the action range elsewhere. {_knows(replayed)}"


def _knows(replayed: Replayed) -> str:
    """One sentence about the critic that steered."""
    value = _means(replayed, replayed.opinions[replayed.main].logged_value)
    success = replayed.success
    known = np.isfinite(success) & np.isfinite(value)
    won = success[known] == 1
    if won.all() or not won.any():
        return "Whether its critic is right cannot be said: that takes successes and failures."
    area = _area(value[known], won)
    known_from = "tells success from failure" if area.low > 0.5 else "cannot be told from guessing"
    verdict = "takes failures for successes" if area.high < 0.5 else known_from
    return (
        f"Its critic {verdict}: it values a success above a failure in {_percent(area)} of pairs "
        f"({won.sum()} successes, {(~won).sum()} failures; intervals are of 95 %)."
    )


def _means(replayed: Replayed, values: np.ndarray) -> np.ndarray:
    """float64[E], of each episode's known decisions; NaN without any."""
    known, episodes = np.isfinite(values), len(replayed.episodes)
    total = np.bincount(replayed.episode[known], values[known], episodes)
    count = np.bincount(replayed.episode[known], minlength=episodes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _area(score: np.ndarray, success: np.ndarray) -> Interval:
    """AUROC +- 1.96 sd, sd from placements (DeLong et al. 1988): var = var_i(V_i) / m + var_j(V_j) / n.

    V_i is the share of failures that success i beats. For sd one success and one failure are added that are ranked the
    wrong way round: a few episodes in perfect order are no certainty.
    """
    area = auroc(score, success)
    won = np.append(score[success], score.min() - 1.0)
    lost = np.append(score[~success], score.max() + 1.0)
    together = rankdata(np.concatenate([won, lost]))
    beaten = (together[: len(won)] - rankdata(won)) / len(lost)
    beats = (together[len(won) :] - rankdata(lost)) / len(won)
    half = 1.96 * math.sqrt(beaten.var(ddof=1) / len(won) + beats.var(ddof=1) / len(lost))
    return Interval(area, max(0.0, area - half), min(1.0, area + half))


def _percent(interval: Interval) -> str:
    digits = 1 if interval.mean < 0.1 else 0
    mean, low, high = (f"{100 * x:.{digits}f}" for x in (interval.mean, interval.low, interval.high))
    return f"{mean} % ({low} to {high})"
