"""Optimistic rewards for reward-free data (ExPLORe, Li et al. 2023, arXiv 2311.05067).

    r(s, a) = r_hat(s, a) + beta b(s, a)     r_hat fitted to the labelled episodes, b how new it is (labels/novelty.py)

Where the labelled data say nothing, r_hat is a guess and b is large: what was never tried looks good until it is. The
labelled episodes keep what they have. The paper also predicts terminations; here the recorded ones stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..labels.novelty import Novelty
from ..labels.reservoir import Reservoir
from ..labels.small_network import FitConfig, Regression
from ..types import Episode


@dataclass(frozen=True)
class Config:
    labelled_tasks: tuple[str, ...] = ()  # tasks whose rewards are known; none named: every episode of known success
    beta: float = 1.0  # reward per standard deviation of the labelled data's novelty; ExPLORe uses 1
    rows: int = 100_000  # labelled steps held in memory while fitting, a uniform sample
    fit: FitConfig = FitConfig()  # of the reward model and of the novelty

    def build(self) -> Explore:
        return Explore(self)


class Explore:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        known = Reservoir(self.config.rows, self.config.fit.seed)
        for _, episode in episodes():
            if self.labelled(episode):
                known.add(_rows(episode), episode.rewards)
        if not known.seen:
            wanted = f"task {' or '.join(map(repr, self.config.labelled_tasks))}" * bool(self.config.labelled_tasks)
            raise ValueError(
                f"explore: expected labelled episodes ({wanted or 'success known'}), got none; name the tasks whose "
                "rewards are known in --labeler.labelled_tasks"
            )
        rows, rewards = known.sample()
        self.reward = Regression(rows, rewards, self.config.fit, "reward model")
        self.novelty = Novelty(rows, self.config.fit)

    def label(self, name: str, episode: Episode) -> Labels:
        if self.labelled(episode):
            return Labels(about={"labelled": True})
        predicted, bonus = self.reward.predict(_rows(episode)), self.novelty.bonus(_rows(episode))
        about = {"labelled": False, "predicted": float(predicted.mean()), "bonus": float(bonus.mean())}
        return Labels((predicted + self.config.beta * bonus).astype(np.float32), about=about)

    def labelled(self, episode: Episode) -> bool:
        tasks = self.config.labelled_tasks
        return episode.task in tasks if tasks else episode.success is not None


def _rows(episode: Episode) -> np.ndarray:
    """float32[T, S + A]."""
    return np.concatenate([episode.states[: len(episode)], episode.actions], 1)
