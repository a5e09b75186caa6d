"""When a failure began, and which successes nearly were one: an episode's value against that of the successes.

    z_t = (V_t - m_t) / s_t       S_t = max(0, S_{t-1} - z_t - SLACK)       CUSUM (Page 1954)

The onset is the first decision after the last S = 0: from there on the value never recovered. It counts where S then
exceeds what 1 - alpha of the successes stay below: m, s come from half of them, that level from the others (conformal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..steering.alarm import over_time
from .moments import Mark, mark
from .replayed import Replayed

DEEP = 2.0  # s below the successes' mean: the smallest shift looked for, and where the median failure must be to count
SLACK = DEEP / 2  # s that a value may lie below the mean for nothing; half of the shift is the quickest test for it
LEAST = 4  # successes without which there is no band, and failures without which there is no median of theirs


@dataclass(frozen=True)
class Onsets:
    critic: str
    alpha: float  # chance that a success would be said to have an onset
    threshold: float  # of S; inf where there are too few successes for alpha
    failures: int  # episodes known to have failed
    onsets: tuple[Mark, ...]  # of failures; score: largest S after it
    near_misses: tuple[Mark, ...]  # of successes, at their lowest; score: s below the successes' mean

    def to_json(self) -> dict[str, Any]:
        return {
            "critic": self.critic,
            "alpha": self.alpha,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "failures": self.failures,
            "onsets": [each.to_json() for each in self.onsets],
            "near_misses": [each.to_json() for each in self.near_misses],
        }


def onsets(replayed: Replayed, critic: str, alpha: float = 0.1) -> Onsets:
    """Largest scores first. Time is counted in decisions: they should be evenly spaced."""
    values = curves(replayed, replayed.opinions[critic].logged_value)
    won, lost = (np.flatnonzero(replayed.success == outcome) for outcome in (1, 0))
    if len(won) < LEAST:
        return Onsets(critic, alpha, math.inf, len(lost), (), ())
    mean, modulation = over_time(values[won[0::2]])
    z = (values - mean) / modulation  # float64[E, T]
    begun, height = last_excursion(z)
    threshold = _level(height[won[1::2]], alpha)
    failed = {e: (begun[e], height[e]) for e in lost if height[e] > threshold}
    near = _near_misses(z, won, lost) if len(lost) >= LEAST else {}
    return Onsets(
        critic, alpha, threshold, len(lost), _marks(replayed, "onset", failed), _marks(replayed, "near_miss", near)
    )


def curves(replayed: Replayed, score: np.ndarray) -> np.ndarray:
    """float64[E, T] of score [D], T the most decisions of an episode; NaN after an episode's end."""
    rows = [score[replayed.rows(e)] for e in range(len(replayed.episodes))]
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for e, each in enumerate(rows):
        found[e, : len(each)] = each
    return found


def last_excursion(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z [E, T]: its first decision int64[E] and its largest S float64[E]; height 0: S ended at 0."""
    begun, height, s = np.zeros(len(z), np.int64), np.zeros(len(z)), np.zeros(len(z))
    for t, now in enumerate(z.T):
        known = np.isfinite(now)
        s = np.where(known, np.maximum(0.0, s - np.where(known, now, 0.0) - SLACK), s)
        begun = np.where(s == 0, t + 1, begun)
        height = np.where(s == 0, 0.0, np.maximum(height, s))
    return begun, height


def _level(heights: np.ndarray, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest of n; infinite where there is none."""
    rank = math.ceil((len(heights) + 1) * (1 - alpha) - 1e-9)  # 1e-9: the product may round up a whole number
    return float(np.sort(heights)[rank - 1]) if rank <= len(heights) else math.inf


def _near_misses(z: np.ndarray, won: np.ndarray, lost: np.ndarray) -> dict[int, tuple[int, float]]:
    """Episode -> its lowest decision and depth: below the median failure, and later above the successes' mean."""
    seen = np.isfinite(z[lost]).any(0)
    median = np.full(z.shape[1], -np.inf)
    median[seen] = np.nanmedian(z[lost][:, seen], 0)
    below = z < np.where(median < -DEEP, median, -np.inf)  # bool[E, T]
    found = {}
    for e in won[below[won].any(1)]:
        low = int(np.where(below[e], z[e], np.inf).argmin())
        if np.nanmax(z[e, low:]) >= 0:
            found[int(e)] = (low, -z[e, low])
    return found


def _marks(replayed: Replayed, kind: str, found: dict[int, tuple[int, float]]) -> tuple[Mark, ...]:
    """found: episode -> number of a decision in it, and the score."""
    each = [mark(replayed, kind, replayed.rows(e).start + int(t), score) for e, (t, score) in found.items()]
    return tuple(sorted(each, key=lambda m: -m.score))
