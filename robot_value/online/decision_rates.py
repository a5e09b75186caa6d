"""How much a policy loses when it decides less often: the frequency-averaged score of SRL (arXiv 2410.08979).

    FAS = integral of score(f) df / (f_max - f_min)     f = 1 / (k dt) in Hz, k control steps executed per decision

Trapezoids join the rates that were played. A policy of single actions falls where k grows; one that plans its chunk
keeps its score. Only the metric is SRL's: its actor, trained through a learned model between decisions, is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluate import Arm, compare
from ..protocols import ChunkPolicy, Robot


@dataclass(frozen=True)
class Rates:
    """The plain policy at K decision rates on S environment seeds."""

    hertz: tuple[float, ...]  # K, decisions per second, rising
    success: np.ndarray  # bool[K, S]

    @property
    def averaged(self) -> float:
        return frequency_averaged_score(self.hertz, self.success.mean(1))


def at_rates(robot: Robot, policy: ChunkPolicy, seeds: Sequence[int], steps: Sequence[int], seed: int = 0) -> Rates:
    """Plays the first k = steps[i] steps of every chunk; a critic judges a fixed number and is left out."""
    if max(steps) > policy.spec.horizon or len(set(steps)) < 2:
        raise ValueError(f"steps: expected two or more of 1 to the horizon {policy.spec.horizon}, got {list(steps)}")
    slowest_first = sorted(set(steps), reverse=True)
    played = [
        compare(robot, policy, {}, [Arm("plain")], seeds, execute=k, seed=seed, progress=False) for k in slowest_first
    ]
    success = np.stack([found.result("plain").success[0] for found in played])
    return Rates(tuple(1 / (k * policy.spec.dt) for k in slowest_first), success)


def frequency_averaged_score(hertz: Sequence[float], score: Sequence[float] | np.ndarray) -> float:
    """hertz rising."""
    f, s = np.asarray(hertz, float), np.asarray(score, float)
    if f.shape != s.shape or len(f) < 2 or (np.diff(f) <= 0).any():
        raise ValueError(f"expected two or more rising rates with a score each, got {list(hertz)} and {list(score)}")
    return float(np.trapezoid(s, f) / (f[-1] - f[0]))
