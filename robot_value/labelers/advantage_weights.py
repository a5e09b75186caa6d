"""Advantage weighting of Harnessing Mixed Offline RL Datasets (Hong et al. 2023): good for where the episode began.

    w_i = softmax_i(A'_i / alpha),   A_i = G_i - V(s_0),   A' scaled to [0, 1] as in return_weights

Return weighting prefers episodes that began in an easy place; this takes the place out. V is a ridge regression of G on
the first state and the task (the paper's implementation: least squares), and A_i is what it misses episode i by when
fitted without it: (G_i - V(s_0)) / (1 - h_i), h the hat matrix's diagonal. So no episode explains itself away.
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
    ridge: float = 1.0  # weight of the squared coefficients of V, states of unit variance; larger trusts s_0 less

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge: expected a number above 0, got {self.ridge}")

    def build(self) -> AdvantageWeights:
        return AdvantageWeights(self)


class AdvantageWeights:
    def __init__(self, config: Config):
        self.config, self.weights, self.advantages = config, {}, {}

    def fit(self, episodes: Episodes) -> None:
        seen = [(name, e.states[0], e.task, e.rewards.sum(dtype=np.float64)) for name, e in episodes()]
        names, states, tasks, returns = zip(*seen, strict=True)
        columns = np.column_stack([np.array(states, np.float64), _one_hot(tasks)])
        advantages = left_out(columns, np.array(returns), self.config.ridge)
        weights = trajectory_weights(advantages, self.config.alpha)
        self.weights = dict(zip(names, weights, strict=True))
        self.advantages = dict(zip(names, advantages.tolist(), strict=True))

    def label(self, name: str, episode: Episode) -> Labels:
        weights = np.full(len(episode), self.weights[name], np.float32)
        return Labels(weights=weights, about={"advantage": self.advantages[name]})


def left_out(columns: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """float64[E]: y minus its ridge prediction from columns [E, D], standardised, fitted without that row.

    The mean is not penalised; columns are centred and scaled once, over all rows.
    """
    scale = columns.std(0)
    x = (columns - columns.mean(0)) / np.where(scale > 0, scale, 1)
    x = np.column_stack([np.ones(len(x)), x])
    penalty = ridge * np.eye(x.shape[1])
    penalty[0, 0] = 0
    solved = np.linalg.solve(x.T @ x + penalty, x.T)  # [D + 1, E]
    hat = np.einsum("ed,de->e", x, solved)
    return (y - x @ (solved @ y)) / np.maximum(1 - hat, 1e-9)  # 1 - hat is 0 only where there is one episode


def _one_hot(tasks: tuple[str, ...]) -> np.ndarray:
    """float64[E, distinct tasks]."""
    known = list(dict.fromkeys(tasks))
    return np.eye(len(known))[[known.index(task) for task in tasks]]
