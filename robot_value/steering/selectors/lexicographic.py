"""Safety first: the highest value among feasible candidates, the least risk where none is (FISOR, arXiv 2401.10700).

Reads the named score "risk": larger is more dangerous, and a candidate is feasible where risk <= limit. FISOR itself
takes the least risk always, as its policy is trained to seek value; behind a policy that is not, value decides here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...types import Scores, Selection, Situation
from ..selection import best, named, scored


@dataclass(frozen=True)
class Config:
    limit: float = 0.5  # the largest feasible risk; one half in critics.fisor's unit is FISOR's Q_h <= 0

    def build(self) -> Lexicographic:
        if not abs(self.limit) < float("inf"):
            raise ValueError(f"limit: expected a finite risk, got {self.limit}; without a limit use argmax")
        return Lexicographic(self.limit)


@dataclass(frozen=True)
class Lexicographic:
    limit: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        risk = named(scores, "risk")  # float32[B, N]
        usable = scored(scores, situation) & risk.isfinite()
        feasible = usable & (risk <= self.limit)
        some = feasible.any(1, keepdim=True)
        return best(chunks, torch.where(some, scores.value, -risk), torch.where(some, feasible, usable))
