"""Monte-Carlo returns, fixed when they are written: what an mc critic regresses on and Cal-QL takes as its floor.

    G_t = r_t + gamma G_{t+1},   G_T = 0, or r_{T-1} / (1 - gamma) where time ran out and `forever` is set

Without labels a sampler makes G from the rewards with the critic's gamma and G_T = 0: where every step costs something
that is too optimistic after a time-out, which `forever` mends. The critic's gamma must be this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..types import Episode
from ..windows import returns_to_go


@dataclass(frozen=True)
class Config:
    gamma: float = 0.99  # discount per control step; the critics' default
    forever: bool = False  # after a time-out go on with the last reward for ever; for rewards of minus_one

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or (self.forever and self.gamma == 1):
            raise ValueError(f"gamma: expected 0 to 1, below 1 with forever, got {self.gamma}")

    def build(self) -> MonteCarlo:
        return MonteCarlo(self)


class MonteCarlo:
    def __init__(self, config: Config):
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        """Every episode speaks for itself."""

    def label(self, name: str, episode: Episode) -> Labels:
        gamma, after = self.config.gamma, 0.0
        if self.config.forever and not episode.terminated:
            after = float(episode.rewards[-1]) / (1 - gamma)
        discounts = gamma ** np.arange(len(episode), 0, -1)
        returns = (returns_to_go(episode.rewards, gamma) + discounts * after).astype(np.float32)
        return Labels(returns=returns, about={"gamma": gamma, "discounted_return": float(returns[0])})
