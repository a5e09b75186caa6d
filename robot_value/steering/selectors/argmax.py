"""The candidate with the highest value (best-of-N; QC, arXiv 2507.07969)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..selection import pick, scored


@dataclass(frozen=True)
class Config:
    def build(self) -> Argmax:
        return Argmax()


class Argmax:
    uses_critic = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        value = scores.value.masked_fill(~scored(scores, situation), -torch.inf)
        return pick(chunks, value.argmax(1))
