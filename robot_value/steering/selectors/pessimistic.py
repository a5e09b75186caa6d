"""The candidate with the highest value - rho spread: a value that only some ensemble members believe in counts less.

The lower confidence bound of FEdit's backup (there rho = 0.5), used to choose. A critic whose own aggregate is
pessimistic already (min, or mean with a rho) is then pessimistic twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...types import Scores, Selection, Situation
from ..selection import best, scored


@dataclass(frozen=True)
class Config:
    rho: float = 0.5  # standard deviations over the ensemble that are subtracted (FEdit); 0 is argmax

    def build(self) -> Pessimistic:
        if not 0 <= self.rho < float("inf"):
            raise ValueError(f"rho: expected a finite number from 0 on, got {self.rho}; 0 trusts the value alone")
        return Pessimistic(self.rho)


@dataclass(frozen=True)
class Pessimistic:
    rho: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        return best(chunks, scores.value - self.rho * scores.spread, scored(scores, situation))
