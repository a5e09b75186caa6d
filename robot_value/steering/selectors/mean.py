"""The plain average of all finite candidates: the critic-free control, strong where errors are symmetric."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..selection import average, uniform


@dataclass(frozen=True)
class Config:
    def build(self) -> Mean:
        return Mean()


class Mean:
    uses_critic = False

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        return average(chunks, uniform(situation.finite), situation)
