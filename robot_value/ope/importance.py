"""Importance sampling with chunks as actions: the log's outcomes, reweighted to the evaluated policy.

    w_t^i = prod_{j <= t} pi(a_j^i | s_j^i) / mu(a_j^i | s_j^i)
    V = sum_t sum_i (w_t^i / sum_j w_t^j) gamma^t r_t^i          per decision, self-normalized (Precup et al. 2000)

A chunk is a point in k * A dimensions, so few of them suffice to leave one episode with all the weight: below an
effective sample size (sum w)^2 / sum w^2 of `least` episodes there is no estimate, only a refusal.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from ..replay.by_episode import draws
from ..replay.replayed import Replayed
from ..statistics import Interval
from .chunks import Chunks

LEAST = 10.0  # effective episodes below which the estimate is one of a few lucky episodes


def paths(chunks: Chunks, column: np.ndarray, past: float) -> np.ndarray:
    """float64[E, L]: a column float[D] along every episode's chunks, `past` after its end."""
    rows = chunks.paths
    return np.where(rows >= 0, column[rows], past)


def weights(chunks: Chunks, log_ratio: np.ndarray) -> np.ndarray:
    """w float64[E, L] of log_ratio float64[D] = log pi - log mu; the last one is kept after an episode's end."""
    return np.exp(np.minimum(np.cumsum(paths(chunks, log_ratio, 0.0), 1), 700.0))  # e^710 is no number


def effective(weight: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of float64[E], in episodes; 0 where all are 0."""
    weight = weight / max(float(weight.max(initial=0.0)), 1e-300)
    return float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300))


def gains(chunks: Chunks) -> np.ndarray:
    """float64[E, L]: gamma^t times the chunk's reward, 0 after the end."""
    return paths(chunks, chunks.target.gamma ** chunks.step.astype(float) * chunks.reward, 0.0)


def weighted(chunks: Chunks, log_ratio: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile interval over resampled episodes; the weights are normalized again in every resample."""
    whole = complete(chunks)
    weight, gain = weights(chunks, log_ratio)[whole], gains(chunks)[whole]
    weight = weight / weight.max(0)
    drawn = draws(len(weight), resamples, seed)  # [R + 1, E]
    with np.errstate(invalid="ignore"):  # a resample may hold none of the episodes that count
        found = np.nansum((drawn @ (weight * gain)) / (drawn @ weight), 1)
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Interval(float(found[0]), float(low), float(high))


def complete(chunks: Chunks) -> np.ndarray:
    """bool[E]: every chunk of the episode is usable and its end was seen."""
    rows = chunks.paths
    return (np.where(rows >= 0, chunks.usable[rows], True)).all(1) & np.isfinite(chunks.returns)


# log N(a; mean, std) over the numbers of a chunk that were executed
def gaussian_log_density(
    chunk: np.ndarray, mean: np.ndarray, std: np.ndarray | float, executed: np.ndarray | bool = True
) -> np.ndarray:
    """float64[...] of chunk and mean float[..., k, A]: the density of a policy that adds Gaussian noise to a plan.

    executed bool[..., k]: steps after an episode's end were never drawn, and have no density.
    """
    z, size = (chunk - mean) / std, np.broadcast_to(std, chunk.shape)
    each = -0.5 * (z**2 + np.log(2 * np.pi)) - np.log(size)
    return np.where(np.asarray(executed)[..., None], each, 0.0).sum((-2, -1))


def executed(replayed: Replayed) -> np.ndarray:
    """bool[D, k]: steps of the logged chunk that happened."""
    return np.arange(replayed.execute) < replayed.length[:, None]


# log 1/N sum_n N(a; c_n, h),  h = std(c) * N^(-1 / (k A + 4)), Scott's rule per number of the chunk
def kernel_log_density(replayed: Replayed) -> np.ndarray:
    """float64[D]: density of the logged chunk among the candidates of a plain policy, estimated by kernels.

    An estimate in k * A dimensions from N points: a ratio of two such is a hint, and no bound holds for it.
    """
    k, n = replayed.execute, replayed.candidates.shape[1]
    if n < 8:
        raise ValueError(f"candidates: expected at least 8 per decision for a density, got {n}; replay with n=64")
    candidates = replayed.candidates[:, :, :k].astype(float)  # [D, N, k, A]
    size = np.sqrt(candidates.var(1).mean(0)).clip(1e-3 * replayed.span)  # [k, A], over candidates, typical decision
    size = size * n ** (-1 / (size.size + 4))
    logged, happened = replayed.logged[:, None, :k].astype(float), executed(replayed)[:, None]
    each = gaussian_log_density(logged, candidates, size, happened)
    return logsumexp(each, axis=1) - np.log(n)
