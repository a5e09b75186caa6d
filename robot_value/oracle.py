"""What the best choice among N candidates would have been worth, without flattering the maximum of noisy means.

The best candidate is chosen on half of its rollouts and valued on the other half, and the other way round; both values
are averaged. With few rollouts that choice is noisy and the figure too low; the plain maximum is too high, and is given
beside it. Shape letters: C chunks tried at a decision point (N candidates, then the selector's own), R rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .statistics import bootstrap, ratio, spearman_within


@dataclass(frozen=True)
class Tried:
    """One decision point after every chunk was executed and continued R times."""

    seed: int  # environment seed: the episode this point belongs to
    decision: int  # which decision of the episode
    success: np.ndarray  # float64[C, R], 1 or 0
    value: np.ndarray  # float64[N], the critic's value of each candidate
    selected: int  # row of `success` that the selector executes; N where it made a new chunk


def oracle(success: np.ndarray) -> float:
    """Expected success of the best of N from rollouts [N, R], cross-fitted; equal means are chosen between evenly."""
    if success.shape[1] < 2:
        raise ValueError(f"the oracle needs at least 2 rollouts per candidate to split, got {success.shape[1]}")
    half = success.shape[1] // 2
    first, second = success[:, :half].mean(1), success[:, half:].mean(1)
    return float((second[first == first.max()].mean() + first[second == second.max()].mean()) / 2)


def pass_at(successes: np.ndarray, n: int, k: int) -> float:
    """Mean over episodes of 1 - C(n-c, k) / C(n, k), where c of n tries succeeded: some of k tries succeeds."""
    return float(np.mean([1 - math.comb(n - int(c), k) / math.comb(n, k) for c in successes]))


def summarise(points: Sequence[Tried], tries: np.ndarray, candidates: int) -> dict[str, Any]:
    """The figures of results.json. Every episode weighs the same; intervals resample episodes.

    `tries` bool[episodes, N]: independent base episodes from each start, for pass@N.
    """
    selected = np.array([point.success[point.selected].mean() for point in points])
    base = np.array([point.success[0].mean() for point in points])
    best = np.array([oracle(point.success[:candidates]) for point in points])
    base, selected, best = (_by_episode(points, figure) for figure in (base, selected, best))
    flattered = _by_episode(points, np.array([point.success[:candidates].mean(1).max() for point in points]))
    ranks = spearman_within([p.value for p in points], [p.success[:candidates].mean(1) for p in points])
    ranks = ranks[np.isfinite(ranks)]
    base_mean, selector_mean, oracle_mean = (bootstrap(figure) for figure in (base, selected, best))
    recovered, regret = ratio(selected - base, best - base), bootstrap(best - selected)
    counts = tries.sum(1)
    return {
        "n_episodes": len(base),
        "n_points": len(points),
        "base": base_mean.mean,
        "ci95_base": base_mean.ci95,
        "selector": selector_mean.mean,
        "ci95_selector": selector_mean.ci95,
        "oracle": oracle_mean.mean,
        "ci95_oracle": oracle_mean.ci95,
        "oracle_without_split": float(flattered.mean()),
        "recovered": recovered.mean,
        "ci95_recovered": recovered.ci95,
        "regret": regret.mean,
        "ci95_regret": regret.ci95,
        "rank_correlation": float(ranks.mean()) if len(ranks) else None,
        "ci95_rank_correlation": bootstrap(ranks).ci95 if len(ranks) else None,
        "rank_correlation_points": len(ranks),
        "pass_at_n": pass_at(counts, candidates, candidates),
        "pass_at": {str(k): pass_at(counts, candidates, k) for k in _doublings(candidates)},
    }


def _by_episode(points: Sequence[Tried], figure: np.ndarray) -> np.ndarray:
    """float64[episodes]: mean of a per-point figure over each episode's points, in order of first appearance."""
    seeds = np.array([point.seed for point in points])
    return np.array([figure[seeds == seed].mean() for seed in dict.fromkeys(seeds.tolist())])


def _doublings(n: int) -> list[int]:
    counts = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return counts if counts[-1] == n else [*counts, n]
