"""Do a decision's candidates form two groups? The best split of their leading direction against one Gaussian.

    s = X C^m e,  C = X^T X        r = max over cuts c of  (sum of the c smallest s)^2 N / (c (N - c) sum of s^2)

X [N, F] are the centred candidates, e the axis of largest variance, m power iterations: s are their scores on the first
principal component. r in (0, 1) is the share of its variance that two groups explain (two-means on a line, exactly).
If the candidates are one Gaussian of any covariance and dimension, X and Q X have one law for every rotation Q that
keeps the mean, and s / |s| is uniform whatever m is: r is distributed as that of N standard normal numbers. So one
simulation per N gives a p-value that needs no estimate of the covariance and is right for N = 4 and for N = 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .chunk_space import SAME

LEAST = 2  # candidates on either side of a cut: one stray is no mode
ITERATIONS = 20
SIMULATED = 20_000  # draws of the null; the smallest p is 1 / (SIMULATED + 1)


@dataclass(frozen=True)
class Split:
    """A row per decision; NaN where fewer than 4 candidates or one that is not finite."""

    explained: np.ndarray  # float64[D], r
    p: np.ndarray  # float64[D], chance of such an r if there is one mode
    gap: np.ndarray  # float64[D], distance of the groups' means, in action ranges
    minor: np.ndarray  # float64[D], share of the candidates in the smaller group


def split(points: np.ndarray) -> Split:
    """Of candidates' points float64[D, N, F] (chunk_space.points)."""
    decisions, n = points.shape[:2]
    if n < 2 * LEAST:
        return Split(*np.full((4, decisions), np.nan))
    known = np.isfinite(points).all((1, 2))
    centred = np.where(known[:, None, None], points - points.mean(1, keepdims=True), 0.0)
    spread = np.sqrt((centred**2).sum(2).max(1)) > SAME  # else all candidates are one
    scores = np.where(spread[:, None], _leading(centred), 0.0)
    explained, cut = _best_cut(scores)
    rank = scores.argsort(1, kind="stable").argsort(1, kind="stable")
    below = rank < cut[:, None]  # bool[D, N], the lower group
    weight = below / cut[:, None] - ~below / (n - cut)[:, None]
    gap = np.linalg.norm(np.einsum("dn,dnf->df", weight, centred), axis=1)
    columns = (explained, p_value(explained, n), gap, np.minimum(cut, n - cut) / n)
    return Split(*(np.where(known, column, np.nan) for column in columns))


def p_value(explained: np.ndarray, n: int) -> np.ndarray:
    """float64[D]: chance that N candidates of one Gaussian explain as much."""
    null = _null(n)
    return (1 + len(null) - np.searchsorted(null, explained, side="left")) / (1 + len(null))


def _leading(centred: np.ndarray) -> np.ndarray:
    """float64[D, N], scores on the first principal component of points [D, N, F]."""
    axis = (centred**2).sum(1).argmax(1)
    scores = np.take_along_axis(centred, axis[:, None, None], 2)  # [D, N, 1]
    for _ in range(ITERATIONS):
        scores = centred @ (centred.transpose(0, 2, 1) @ scores)
        scores = scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-300)
    return scores[:, :, 0]


def _best_cut(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r float64[D] and the size int64[D] of the lower group; 0 where all scores are equal."""
    n = scores.shape[1]
    scores = np.sort(scores - scores.mean(1, keepdims=True), axis=1)
    size = np.arange(LEAST, n - LEAST + 1)
    between = scores.cumsum(1)[:, size - 1] ** 2 * n / (size * (n - size))  # [D, cuts]
    total = (scores**2).sum(1)
    explained = np.divide(between.max(1), total, out=np.zeros(len(scores)), where=total > 0)
    return explained, size[between.argmax(1)]


@lru_cache(maxsize=8)
def _null(n: int) -> np.ndarray:
    """float64[SIMULATED], sorted."""
    return np.sort(_best_cut(np.random.default_rng(n).normal(size=(SIMULATED, n)))[0])
