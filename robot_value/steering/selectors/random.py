"""Any finite candidate with equal chance: what a critic has to beat before it is worth its time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..selection import draw, pick, uniform


@dataclass(frozen=True)
class Config:
    def build(self) -> Random:
        return Random()


class Random:
    uses_critic = False

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        weights = uniform(situation.finite)
        return pick(chunks, draw(weights, situation.generators), weights)
