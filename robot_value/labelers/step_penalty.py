"""ALOE's rewards (arXiv 2602.12691): success or failure at the end, and a price of time scaled to episode length.

    r_t = -penalty / L  +  1[t = T - 1] (1 if success else -1)

The paper says this in words and gives no formula; L is here the longest episode (or `length`), so that the slowest one
pays `penalty` in all and a faster success is the better one. Both outcomes terminate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..labels.outcomes import succeeded
from ..types import Episode


@dataclass(frozen=True)
class Config:
    penalty: float = 1.0  # what L steps cost together, in units of the reward for a success
    length: int = 0  # L, control steps, e.g. the time limit; 0 takes the longest episode of the dataset
    unknown: str = "refuse"  # refuse | success | failure: what episodes are whose success nobody knows

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.length < 0:
            raise ValueError(f"penalty and length: expected at least 0, got {self.penalty:g} and {self.length}")

    def build(self) -> StepPenalty:
        return StepPenalty(self)


class StepPenalty:
    def __init__(self, config: Config):
        self.config, self.length = config, config.length

    def fit(self, episodes: Episodes) -> None:
        """With a given length every episode speaks for itself."""
        self.length = self.config.length or max(len(episode) for _, episode in episodes())

    def label(self, name: str, episode: Episode) -> Labels:
        success = succeeded(name, episode, self.config.unknown)
        rewards = np.full(len(episode), -self.config.penalty / self.length, np.float32)
        rewards[-1] += 1 if success else -1
        return Labels(rewards=rewards, terminated=True, success=success)
