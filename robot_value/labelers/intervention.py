"""RLIF's rewards (Luo et al. 2024, arXiv 2311.12996): what a human had to correct was bad, and nothing else is known.

    r_t = -1 if a human takes over at step t + 1, else 0

From Episode.source. An intervention at the first step blames no step; only the moment counts, not how long it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..types import HUMAN, Episode


@dataclass(frozen=True)
class Config:
    def build(self) -> Intervention:
        return Intervention()


class Intervention:
    def fit(self, episodes: Episodes) -> None:
        """Every episode speaks for itself."""

    def label(self, name: str, episode: Episode) -> Labels:
        human = np.zeros(len(episode), bool) if episode.source is None else episode.source == HUMAN
        rewards = np.zeros(len(episode), np.float32)
        rewards[:-1] = np.where(human[1:] & ~human[:-1], -1, 0)
        return Labels(rewards=rewards, about={"interventions": int(-rewards.sum()), "human": float(human.mean())})
