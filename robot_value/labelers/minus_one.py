"""V-GPS's rewards (Nakamoto et al. 2024, arXiv 2410.13816): every step costs 1 until the goal is reached.

    r_t = 0 for the last steps of a success, else -1        so that V = -(1 - gamma^(steps to go)) / (1 - gamma)

A success terminates, a failure never does: it would go on costing, and to give up early must not look cheap. V-GPS
bootstraps on nothing in the last `last_steps` steps; here their rewards and the termination say the same, V = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..labels.outcomes import succeeded
from ..types import Episode


@dataclass(frozen=True)
class Config:
    last_steps: int = 3  # steps at the end of a success that cost nothing; V-GPS and Hume
    unknown: str = "refuse"  # refuse | success | failure: what episodes are whose success nobody knows

    def __post_init__(self) -> None:
        if self.last_steps < 1:
            raise ValueError(f"last_steps: expected at least 1 step at the goal, got {self.last_steps}")

    def build(self) -> MinusOne:
        return MinusOne(self)


class MinusOne:
    def __init__(self, config: Config):
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        """Every episode speaks for itself."""

    def label(self, name: str, episode: Episode) -> Labels:
        success = succeeded(name, episode, self.config.unknown)
        rewards = np.full(len(episode), -1, np.float32)
        if success:
            rewards[-self.config.last_steps :] = 0
        return Labels(rewards=rewards, terminated=success, success=success)
