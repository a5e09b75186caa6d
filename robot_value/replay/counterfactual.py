"""What every selector and gate would have chosen among the same candidates with the same scores (alternatives.py asks).

A gain is V(choice) - V(candidate 0): the critic's own opinion of its own choice. Whoever takes the best of N noisy
opinions is flattered (Smith & Winkler 2006, "The optimizer's curse"), so that a gain is a claim and no evidence.

    in units of return:  g(V(choice)) - g(V(candidate 0)),  g isotonic on (V(logged), realised return) of other episodes

Each half of the episodes is calibrated on the other one. Intervals are 95 %, from a bootstrap over whole episodes.
Shape letters: D decisions, E episodes, K arms, k executed steps, A action dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from ..results import plain
from ..statistics import Interval
from . import by_episode
from .chunk_space import SAME, between, blocks, points
from .replayed import Replayed

UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Config:
    top: int = 10  # decisions named per arm, one per episode
    resamples: int = 1000  # of a bootstrap over episodes
    seed: int = 0  # of the bootstrap and of the halves that calibrate each other


@dataclass(frozen=True)
class Choices:
    """What one arm would have done, a row per decision."""

    index: np.ndarray  # int64[D], candidate; -1: a new chunk
    acted: np.ndarray  # bool[D]; False: the gate or a fallback left it to candidate 0
    chunk: np.ndarray  # float32[D, k, A]
    value: np.ndarray  # float32[D], the main critic's
    distance: np.ndarray  # float64[D], to what was executed, rms in action ranges
    moved: np.ndarray  # float64[D], to candidate 0
    gain: np.ndarray  # float64[D], V(choice) - V(candidate 0)


@dataclass(frozen=True)
class Arm:
    """Shares and means over decisions."""

    name: str
    acted: Interval  # share of decisions in which its selection is used
    changed: Interval  # share in which it does something else than candidate 0, the plain policy
    distance: Interval  # to what was executed, rms in action ranges
    moved: Interval  # to candidate 0
    gain: Interval  # value units; the critic's own opinion
    gain_logged: Interval  # against V(logged), where the logged chunk has all the steps that the critic judges
    gain_return: Interval  # the gain in units of return; NaN where the calibration is not trusted
    as_logged: float  # share equal to what was executed: near 1 for the arm that recorded the log
    as_steered: float  # share equal to the bit to what this replay's steerer chose


@dataclass(frozen=True)
class Trust:
    """Whether a higher value went with a higher return, in episodes that the map g was not fitted on."""

    rank: Interval  # Spearman of g(V(logged)) and the realised return
    trusted: bool  # its lower bound is above 0


@dataclass(frozen=True)
class Difference:
    """A decision in which an arm would have done something quite different from what was executed."""

    arm: str
    episode: str
    step: int  # t
    decision: int  # row of the Replayed
    distance: float  # to what was executed, rms in action ranges
    gain: float  # V(choice) - V(candidate 0)
    gain_logged: float  # V(choice) - V(logged)


@dataclass(frozen=True)
class Diagnosis:
    arms: tuple[Arm, ...]  # K
    agreement: np.ndarray  # float64[K, K], share of decisions in which two arms choose the same chunk
    apart: np.ndarray  # float64[K, K], mean distance of their chunks, rms in action ranges
    trust: Trust
    differences: tuple[Difference, ...]  # per arm in order, the largest distance first

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))


def names(replayed: Replayed) -> tuple[str, ...]:
    """Arms that were asked, in order."""
    head, tail = "arm ", " index"
    return tuple(c[len(head) : -len(tail)] for c in replayed.columns if c.startswith(head) and c.endswith(tail))


def choices(replayed: Replayed, arm: str) -> Choices:
    known = {key: replayed.columns[f"arm {arm} {key}"] for key in ("index", "acted", "chunk", "value")}
    distance, moved = np.empty((2, len(replayed)))
    for rows in blocks(len(replayed)):
        k = known["chunk"].shape[1]
        others = np.stack([replayed.logged[rows, :k], replayed.candidates[rows, 0, :k]], 1)
        apart = _apart(replayed, rows, np.concatenate([known["chunk"][rows, None], others], 1))
        distance[rows], moved[rows] = apart[:, 0, 1], apart[:, 0, 2]
    return Choices(**known, distance=distance, moved=moved, gain=known["value"] - _first(replayed))


def diagnose(replayed: Replayed, config: Config = Config()) -> Diagnosis:
    """Raises ValueError where no arm was asked."""
    asked = names(replayed)
    if not asked:
        raise ValueError("expected choices of arms, got none; replay with onlookers=[Alternatives.of(...)]")
    drawn = by_episode.draws(len(replayed.episodes), config.resamples, config.seed)
    calibrated, trust = _calibrate(replayed, drawn, config.seed)
    found = {arm: choices(replayed, arm) for arm in asked}
    agreement, apart = _agreement(replayed, list(found.values()))
    return Diagnosis(
        arms=tuple(_arm(replayed, arm, each, calibrated, drawn) for arm, each in found.items()),
        agreement=agreement,
        apart=apart,
        trust=trust,
        differences=tuple(d for arm, each in found.items() for d in _largest(replayed, arm, each, config.top)),
    )


def _arm(replayed: Replayed, name: str, chosen: Choices, calibrated: Calibrated | None, drawn: np.ndarray) -> Arm:
    def mean(column: np.ndarray) -> Interval:
        return by_episode.mean(column.astype(float), replayed.episode, drawn).interval

    steered = replayed.chosen[:, : chosen.chunk.shape[1]]
    gain_return = None if calibrated is None else calibrated(chosen.value) - calibrated(_first(replayed))
    return Arm(
        name=name,
        acted=mean(chosen.acted),
        changed=mean(chosen.moved > SAME),
        distance=mean(chosen.distance),
        moved=mean(chosen.moved),
        gain=mean(chosen.gain),
        gain_logged=mean(_gain_logged(replayed, chosen)),
        gain_return=UNKNOWN if gain_return is None else mean(gain_return),
        as_logged=float((chosen.distance <= SAME).mean()),
        as_steered=float((chosen.chunk == steered).all((1, 2)).mean()),
    )


@dataclass(frozen=True)
class Calibrated:
    """g: values of decisions to returns, each by the half of the episodes that it is not in."""

    half: np.ndarray  # int64[D]
    value: tuple[np.ndarray, np.ndarray]  # float64[.], sorted, per half: of the other one
    returns: tuple[np.ndarray, np.ndarray]  # float64[.], isotonic

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """float64[D]; constant beyond the values that were seen, NaN where the value is."""
        each = [np.interp(value, v, r) for v, r in zip(self.value, self.returns, strict=True)]
        return np.where(np.isfinite(value), np.where(self.half == 0, *each), np.nan)


def _calibrate(replayed: Replayed, drawn: np.ndarray, seed: int) -> tuple[Calibrated | None, Trust]:
    untrusted, episodes = (None, Trust(UNKNOWN, False)), len(replayed.episodes)
    if replayed.main is None:
        return untrusted
    value, returns = replayed.opinions[replayed.main].logged_value.astype(float), replayed.returns
    half = (np.random.default_rng(seed).permutation(episodes) % 2)[replayed.episode]
    others = [np.flatnonzero((half != h) & np.isfinite(value)) for h in (0, 1)]
    if not all(len(rows) for rows in others):
        return untrusted
    others = [rows[np.argsort(value[rows], kind="stable")] for rows in others]
    found = Calibrated(
        half,
        *(tuple(column) for column in zip(*((value[r], _isotonic(value[r], returns[r])) for r in others), strict=True)),
    )
    rank = by_episode.spearman(found(value), returns, replayed.episode, drawn).interval
    trust = Trust(rank, bool(rank.low > 0))
    return (found if trust.trusted else None), trust


def _isotonic(value: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """float64[.]: the non-decreasing function of the sorted values that is closest to the returns; ties are one."""
    _, place, count = np.unique(value, return_inverse=True, return_counts=True)
    mean = np.bincount(place, returns) / count
    return isotonic_regression(mean, weights=count).x[place]


def _agreement(replayed: Replayed, found: Sequence[Choices]) -> tuple[np.ndarray, np.ndarray]:
    """float64[K, K] twice."""
    same, apart = np.zeros((2, len(found), len(found)))
    for rows in blocks(len(replayed)):
        distance = _apart(replayed, rows, np.stack([each.chunk[rows] for each in found], 1))
        same += (distance <= SAME).sum(0)
        apart += distance.sum(0)
    return same / len(replayed), apart / len(replayed)


def _apart(replayed: Replayed, rows: slice, chunks: np.ndarray) -> np.ndarray:
    """float64[D, P, P] between chunks [D, P, k, A] of these decisions."""
    found = points(chunks, replayed.spec, chunks.shape[2], replayed.length[rows])
    return between(found, found)


def _largest(replayed: Replayed, arm: str, chosen: Choices, top: int) -> list[Difference]:
    """One per episode."""
    order = np.argsort(-chosen.distance, kind="stable")
    first = np.sort(np.unique(replayed.episode[order], return_index=True)[1])  # of each episode its largest
    gain_logged = _gain_logged(replayed, chosen)
    return [
        Difference(
            arm=arm,
            episode=replayed.episodes[replayed.episode[d]].name,
            step=int(replayed.step[d]),
            decision=int(d),
            distance=float(chosen.distance[d]),
            gain=float(chosen.gain[d]),
            gain_logged=float(gain_logged[d]),
        )
        for d in order[first][:top]
        if chosen.distance[d] > SAME
    ]


def _first(replayed: Replayed) -> np.ndarray:
    """float64[D], V(candidate 0); NaN without a critic."""
    if replayed.main is None:
        return np.full(len(replayed), np.nan)
    return replayed.opinions[replayed.main].value[:, 0].astype(float)


def _gain_logged(replayed: Replayed, chosen: Choices) -> np.ndarray:
    """float64[D], V(choice) - V(logged); NaN where the log ended before the critic's scope did."""
    if replayed.main is None:
        return np.full(len(replayed), np.nan)
    logged = replayed.opinions[replayed.main].logged_value.astype(float)
    return np.where(replayed.length >= replayed.execute, chosen.value - logged, np.nan)
