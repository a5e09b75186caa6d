"""Moments that nobody expected: the critic by what happened next, the policy by what was done.

value   z_d = delta_d / sqrt(a^2 + sigma_d^2 + (gamma^k sigma_{d+1})^2),   delta_d = r_{d:d+k} + gamma^k V_{d+1} - V_d
action  z_d = min_n |logged_d - candidate_dn| / sqrt(b^2 + b_d^2),         b_d: a candidate's distance to its nearest

V is the critic's value of the chunk that was executed, sigma its ensemble's spread, a the residuals' usual size, b the
median of b_d: where an ensemble or the candidates agree by chance, a breath is no surprise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .chunk_space import between, blocks, points
from .replayed import Replayed
from .temporal import temporal_differences

# what happened was worse or better than the critic thought, what was done is none of the candidates; onsets.py
KINDS = ("worse", "better", "action", "onset", "near_miss")
TINY = 1e-9  # a scale of 0 means that nothing ever differed


@dataclass(frozen=True)
class Mark:
    """A moment worth a look."""

    kind: str  # one of KINDS
    episode: str
    step: int  # control step of the decision
    seconds: float  # s since the episode began
    score: float  # larger: look first; comparable within a kind

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def mark(replayed: Replayed, kind: str, row: int, score: float) -> Mark:
    step = int(replayed.step[row])
    name = replayed.episodes[replayed.episode[row]].name
    return Mark(kind, name, step, step * replayed.spec.dt, float(score))


def value_surprise(replayed: Replayed, critic: str) -> np.ndarray:
    """float64[D], signed: negative where it came worse than the critic thought.

    NaN at the last decision of an episode that was cut off: nobody saw what came next.
    """
    opinion = replayed.opinions[critic]
    residual = temporal_differences(replayed, opinion.logged_value.astype(float))
    spread = np.nan_to_num(opinion.logged_spread.astype(float), posinf=0.0)
    last = np.append(replayed.episode[1:] != replayed.episode[:-1], True)
    discount = np.where(last, 0.0, replayed.gamma ** (np.append(replayed.step[1:], 0) - replayed.step).clip(0))
    variance = _usual(residual) ** 2 + spread**2 + (discount * np.append(spread[1:], 0.0)) ** 2
    return residual / np.maximum(np.sqrt(variance), TINY)


def action_surprise(replayed: Replayed) -> np.ndarray:
    """float64[D], >= 0, over the steps before the next decision; NaN without candidates."""
    if not replayed.candidates.shape[1]:
        return np.full(len(replayed), np.nan)
    pieces = [_distances(replayed, rows) for rows in blocks(len(replayed))]
    nearest, own = (np.concatenate(each) for each in zip(*pieces, strict=True))
    known = own[np.isfinite(own)]
    usual = np.median(known) if len(known) else np.nanmedian(nearest)  # one candidate has no neighbour
    return nearest / np.maximum(np.hypot(usual, np.nan_to_num(own)), TINY)


def top(replayed: Replayed, kind: str, score: np.ndarray, count: int, apart: float = 1.0) -> tuple[Mark, ...]:
    """The `count` largest of score float[D], at least `apart` s from each other in an episode; NaN is never among them.

    Scores without a positive one have no surprise to offer.
    """
    found: list[int] = []
    for row in np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable"):
        if len(found) == count or not score[row] > 0:
            break
        near = (abs(int(replayed.step[row]) - int(replayed.step[other])) * replayed.spec.dt < apart
                for other in found if replayed.episode[other] == replayed.episode[row])  # fmt: skip
        if not any(near):
            found.append(int(row))
    return tuple(mark(replayed, kind, row, score[row]) for row in found)


def per_episode(replayed: Replayed, score: np.ndarray) -> np.ndarray:
    """float64[E], largest of score [D]; NaN where an episode has none."""
    rows = [score[replayed.rows(e)] for e in range(len(replayed.episodes))]
    return np.array([np.nanmax(each) if np.isfinite(each).any() else np.nan for each in rows])


def _usual(residual: np.ndarray) -> float:
    """1.4826 median |x - median|: the standard deviation of a normal, whatever a few others do."""
    known = residual[np.isfinite(residual)]
    return float(1.4826 * np.median(np.abs(known - np.median(known)))) if len(known) else 0.0


def _distances(replayed: Replayed, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Logged chunk to its nearest candidate, and the median candidate to its own: float64[rows] each, in ranges."""
    chunks = np.concatenate([replayed.logged[rows, None], replayed.candidates[rows]], 1)
    at = points(chunks, replayed.spec, replayed.execute, replayed.length[rows])  # [rows, 1 + N, F]
    apart = between(at, at)
    apart[:, np.arange(chunks.shape[1]), np.arange(chunks.shape[1])] = np.nan
    nearest = np.fmin.reduce(apart[:, :, 1:], 2, initial=np.inf)  # [rows, 1 + N]; fmin and sort leave NaN out
    nearest[np.isinf(nearest)] = np.nan  # there is no candidate to be near to
    own = np.sort(nearest[:, 1:], 1)
    middle = np.maximum(np.isfinite(own).sum(1) - 1, 0) // 2
    return nearest[:, 0], own[np.arange(len(own)), middle]
