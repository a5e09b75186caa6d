"""Does the log know what the policy would do? Share of decisions whose chunk is near a logged one in a like state.

Like states are the K nearest in other episodes; a chunk's distance is the least to what was executed there, rms over
its k steps in shares of each action's range. How far is far, the log says itself: the 95th percentile of the logged
chunks' own distance, so that a policy that made the log has a share of 0.95.
The states are the log's: a policy that leaves them is not seen leaving, and its estimate stays close to the log's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..episodes.findings import Finding
from ..replay.by_episode import draws, mean
from ..replay.replayed import Replayed
from ..statistics import Interval

NEIGHBOURS = 20  # K; more finds rarer behaviour, and lets less similar states count
LEVEL = 0.95  # of the log's own distances that count as near
MISSING = 0.8  # share below which estimates are extrapolations
ROWS = 4000  # decisions compared at most: the table of distances is square


@dataclass(frozen=True)
class Support:
    near: np.ndarray  # bool[D'], of the decisions looked at
    distance: np.ndarray  # float64[D'], share of the range
    rows: np.ndarray  # int64[D'], which decisions those are
    radius: float  # largest distance that counts as near
    share: Interval  # of near ones, over resampled episodes
    by_episode: np.ndarray  # float64[E], share in each episode; NaN where none was looked at

    @property
    def missing(self) -> bool:
        """Shown, not suspected: the whole interval is below."""
        return self.share.high < MISSING

    def to_json(self) -> dict[str, Any]:
        return {
            "share": self.share.mean,
            "ci95": self.share.ci95,
            "radius": self.radius,
            "decisions": len(self.rows),
            "missing": self.missing,
        }


def support(replayed: Replayed, seen: np.ndarray, seed: int = 0) -> Support:
    """seen float32[D, F]: what states are compared by, standardized (ope.fqe.features)."""
    rows = np.arange(len(replayed))
    if len(rows) > ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, ROWS, replace=False))
    episode, k = replayed.episode[rows], replayed.execute
    if len(np.unique(episode)) < 2:
        raise ValueError("support: expected at least 2 episodes to compare, got 1")
    logged, chosen = (
        (chunk[rows, :k] / replayed.span).reshape(len(rows), -1) for chunk in (replayed.logged, replayed.chosen)
    )
    like = neighbours(seen[rows], episode)
    radius = float(np.quantile(nearest(logged, logged, like), LEVEL))
    distance = nearest(chosen, logged, like)
    near = distance <= radius
    count = np.bincount(episode, minlength=len(replayed.episodes))
    with np.errstate(invalid="ignore"):
        by_episode = np.bincount(episode, near, len(count)) / np.where(count, count, np.nan)
    share = mean(near.astype(float), episode, draws(len(count), seed=seed)).interval
    return Support(near, distance, rows, radius, share, by_episode)


def neighbours(seen: np.ndarray, episode: np.ndarray, block: int = 512) -> np.ndarray:
    """int64[D, K']: rows of the nearest states of other episodes, K' <= K; -1 where there are fewer."""
    square, k = (seen**2).sum(1), min(NEIGHBOURS, len(seen) - 1)
    found = []
    for start in range(0, len(seen), block):
        now = slice(start, start + block)
        distance = square[now, None] + square - 2 * seen[now] @ seen.T
        distance[episode[now, None] == episode] = np.inf
        best = np.argpartition(distance, k - 1, 1)[:, :k]
        found.append(np.where(np.isfinite(np.take_along_axis(distance, best, 1)), best, -1))
    return np.concatenate(found)


def nearest(chunks: np.ndarray, logged: np.ndarray, like: np.ndarray) -> np.ndarray:
    """float64[D]: rms distance of chunks [D, kA] to the closest of logged [D, kA] at rows `like`."""
    best = np.full(len(chunks), np.inf)
    for column in like.T:  # K passes over [D, kA]: nothing of size D * K * kA is made
        square = ((chunks - logged[column]) ** 2).mean(1)
        best = np.minimum(best, np.where(column >= 0, square, np.inf))
    return np.sqrt(best)


def findings(replayed: Replayed, support: Support) -> list[Finding]:
    """What the page warns of; episodes with least support first."""
    if not support.missing:
        return []
    worst = [e for e in np.argsort(support.by_episode, kind="stable") if support.by_episode[e] < MISSING]
    share, low, high = (100 * x for x in (support.share.mean, *support.share.ci95))
    return [
        Finding(
            f"{share:.0f} % [{low:.0f}, {high:.0f}] of the policy's chunks are near one that was logged in like states",
            "its estimated value is an extrapolation; collect episodes with this policy before believing it",
            tuple(replayed.episodes[e].name for e in worst),
        )
    ]
