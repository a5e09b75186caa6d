"""Successes only: windows never start in a failure (weight 0).

    w_t = 1[success]

For policies, as filtered behaviour cloning. A critic needs failures: one that never sees them is a negative control.
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

    def build(self) -> SuccessFilter:
        return SuccessFilter(self)


class SuccessFilter:
    def __init__(self, config: Config):
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        """Every episode speaks for itself."""

    def label(self, name: str, episode: Episode) -> Labels:
        success = succeeded(name, episode, self.config.unknown)
        return Labels(weights=np.full(len(episode), success, np.float32), success=success)
