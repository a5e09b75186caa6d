"""How long one robot waits for a decision: median per stage, after a warm-up, on the observation it would see first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .evaluate import Arm, executed_steps
from .protocols import ChunkPolicy, Critic
from .types import Observation

WARM_UP = 3  # decisions that are not counted: first calls allocate


def latency(
    observation: Observation,
    policy: ChunkPolicy,
    critics: Mapping[str, Critic],
    arms: Sequence[Arm],
    *,
    execute: int | None = None,
    repeats: int = 30,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Arm -> stage -> ms, for the first row of `observation` alone."""
    one, execute = observation.rows([0]), executed_steps(execute, policy, critics)
    found = {}
    for arm in arms:
        steerer = arm.steerer(policy, critics, execute, seed=0, device=device)
        seconds = [steerer(one).seconds for _ in range(WARM_UP + repeats)][WARM_UP:]
        found[arm.name] = {stage: float(np.median([lap[stage] for lap in seconds]) * 1e3) for stage in seconds[0]}
    return found
