"""The candidate with the lowest value: a control that must lose if the critic's sign means anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..selection import pick, scored


@dataclass(frozen=True)
class Config:
    def build(self) -> Argmin:
        return Argmin()


class Argmin:
    uses_critic = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        value = scores.value.masked_fill(~scored(scores, situation), torch.inf)
        return pick(chunks, value.argmin(1))
