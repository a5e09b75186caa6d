"""What a log holds twice, and which few episodes show all of it.

An episode is its states and actions at RESAMPLED moments, evenly over its decisions, in standard deviations of the log;
distances are root mean squares over all of that (no alignment in time: episodes at another speed are other episodes).
A diverse subset is greedy k-centre (Gonzalez 1985; for data Sener and Savarese 2018, arXiv 1708.00489): the next one is
the farthest from all chosen, and the radius that is left is at most twice the best possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..results import plain
from .replayed import Replayed

RESAMPLED = 16  # moments of an episode
NEAR = 0.1  # of the typical distance to the nearest neighbour, below which two are the same thing twice
LEAST = 0.01  # standard deviations; what sensors repeat anyway
DIVERSE = 1000  # episodes that are put in an order; each costs a pass over all
ROWS = 1024  # compared with all at once


@dataclass(frozen=True)
class Redundancy:
    nearest: np.ndarray  # float64[E], distance to the nearest other episode, standard deviations; NaN: there is none
    threshold: float  # distance below which two are duplicates
    groups: tuple[tuple[str, ...], ...]  # near-duplicates, the largest group first, in the order of the log
    diverse: tuple[str, ...]  # up to DIVERSE episodes, the most needed first
    radius: np.ndarray  # float64[of those], distance of the worst represented episode when it and those before are kept

    @property
    def repeated(self) -> tuple[str, ...]:
        """All but the first of each group."""
        return tuple(name for group in self.groups for name in group[1:])

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


def redundancy(replayed: Replayed) -> Redundancy:
    vectors, names = trajectories(replayed), [episode.name for episode in replayed.episodes]
    nearest = neighbours(vectors)
    threshold = max(NEAR * float(np.median(nearest)), LEAST) if len(names) > 1 else LEAST
    order, radius = k_centre(vectors, DIVERSE)
    groups = [tuple(names[e] for e in group) for group in duplicates(vectors, threshold)]
    alone = np.where(np.isfinite(nearest), nearest, np.nan)
    return Redundancy(alone, threshold, tuple(groups), tuple(names[e] for e in order), radius)


def trajectories(replayed: Replayed) -> np.ndarray:
    """float64[E, RESAMPLED * (S + A)]; without outliers.States, actions only."""
    rows = replayed.logged[:, 0].astype(np.float64)  # [D, A]
    if "state" in replayed.columns:
        rows = np.concatenate([replayed.columns["state"], rows], 1)
    rows = (rows - rows.mean(0)) / np.where(rows.std(0) > 1e-9, rows.std(0), np.inf)  # what never changes counts 0
    found = []
    for e in range(len(replayed.episodes)):
        each = rows[replayed.rows(e)]
        at = np.linspace(0, len(each) - 1, RESAMPLED)
        low = np.minimum(at.astype(int), max(len(each) - 2, 0))
        high = np.minimum(low + 1, len(each) - 1)
        found.append((each[low] + (at - low)[:, None] * (each[high] - each[low])).ravel())
    return np.array(found)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """float64[n]: distance of each of [n, D] to the nearest other; inf where there is none."""
    found = np.full(len(vectors), np.inf)
    for start in range(0, len(vectors), ROWS):
        between = distances(vectors[start : start + ROWS], vectors)
        between[np.arange(len(between)), start + np.arange(len(between))] = np.inf
        found[start : start + ROWS] = between.min(1)
    return found


def duplicates(vectors: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Groups int64[m >= 2] of those that a chain of distances <= threshold joins, the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(vectors), ROWS):
        near = np.nonzero(distances(vectors[start : start + ROWS], vectors) <= threshold)
        pairs.append(np.stack([near[0] + start, near[1]]))
    first, second = np.concatenate(pairs, 1)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(vectors),) * 2)
    _, label = connected_components(graph, directed=False)
    groups = [np.flatnonzero(label == each) for each in np.flatnonzero(np.bincount(label) > 1)]
    return sorted(groups, key=lambda group: -len(group))


def k_centre(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The chosen rows int64[count], in order, and the radius float64[count] after each; starts nearest to the mean."""
    order = [int(distances(vectors.mean(0, keepdims=True), vectors)[0].argmin())]
    left = distances(vectors[order], vectors)[0]
    radius, taken = [left.max()], np.zeros(len(vectors), bool)
    while len(order) < min(count, len(vectors)):
        taken[order[-1]] = True
        order.append(int(np.where(taken, -1.0, left).argmax()))
        left = np.minimum(left, distances(vectors[order[-1:]], vectors)[0])
        radius.append(left.max())
    return np.array(order), np.array(radius)


# |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, in float64: rounding would hide duplicates
def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root mean square float64[n, m] between rows of [n, D] and [m, D]."""
    square = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(square, 0.0) / x.shape[1])
