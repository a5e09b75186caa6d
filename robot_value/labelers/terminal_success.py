"""The sparsest reward there is: 1 with the step that ends a success, 0 everywhere else; a success terminates.

    r_t = 1[t = T - 1 and success]        so that V = gamma^(steps to go) times the chance of success

A failure terminates only where its recording did: one that ran out of time might have succeeded later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels.labels import Episodes, Labels
from ..labels.outcomes import succeeded
from ..types import Episode


@dataclass(frozen=True)
class Config:
    unknown: str = "refuse"  # refuse | success | failure: what episodes are whose success nobody knows

    def build(self) -> TerminalSuccess:
        return TerminalSuccess(self)


class TerminalSuccess:
    def __init__(self, config: Config):
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        """Every episode speaks for itself."""

    def label(self, name: str, episode: Episode) -> Labels:
        success = succeeded(name, episode, self.config.unknown)
        rewards = np.zeros(len(episode), np.float32)
        rewards[-1] = success
        return Labels(rewards=rewards, terminated=True if success else None, success=success)
