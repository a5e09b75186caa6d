"""Return weighting of Harnessing Mixed Offline RL Datasets (Hong et al. 2023): better episodes are drawn more often.

    w_i = softmax_i(G'_i / alpha),   G'_i = (G_i - min G) / (max G - min G),   G_i the sum of episode i's rewards

Every step of an episode weighs w_i, so that the behaviour a critic starts from, and is kept near to, is a better one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..labels.outcomes import trajectory_weights
from ..types import Episode


@dataclass(frozen=True)
class Config:
    alpha: float = 0.1  # temperature; smaller prefers the best more. The paper's

    def build(self) -> ReturnWeights:
        return ReturnWeights(self)


class ReturnWeights:
    def __init__(self, config: Config):
        self.config, self.weights = config, {}

    def fit(self, episodes: Episodes) -> None:
        returns = {name: float(episode.rewards.sum(dtype=np.float64)) for name, episode in episodes()}
        weights = trajectory_weights(np.array(list(returns.values())), self.config.alpha)
        self.weights = dict(zip(returns, weights, strict=True))

    def label(self, name: str, episode: Episode) -> Labels:
        return Labels(weights=np.full(len(episode), self.weights[name], np.float32))
