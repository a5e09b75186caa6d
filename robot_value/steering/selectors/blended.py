"""The highest mixture of value and another critic's opinion, each in standard deviations of the candidates:

    (1 - weight) z(value) + weight z(named score)

The named score may be "count", the log pseudo-count of test-time anti-exploration (TACO, arXiv 2512.02834);
"preference", the reward behind a ranking (DeformPAM, arXiv 2410.11584); or "prior", the log density of an unconditioned
action prior (arXiv 2503.09423). Larger is better for all. TACO and DeformPAM choose by it alone: weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...types import Scores, Selection, Situation
from ..selection import best, named, scored, zscore


@dataclass(frozen=True)
class Config:
    score: str = "count"  # which named score: count, prior, preference, or any other that the arm's critics give
    weight: float = 0.5  # 0: value alone (argmax), 1: the named score alone; one half is ours

    def build(self) -> Blended:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight: expected 0 (value alone) to 1 (the named score alone), got {self.weight}")
        return Blended(self.score, self.weight)


@dataclass(frozen=True)
class Blended:
    score: str
    weight: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        other = named(scores, self.score)  # float32[B, N]
        usable = scored(scores, situation) & other.isfinite()
        value, other = zscore(scores.value, usable), zscore(other, usable)
        return best(chunks, (1 - self.weight) * value + self.weight * other, usable)
