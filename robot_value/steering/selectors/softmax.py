"""One candidate drawn from softmax(zscore(value) / T) (V-GPS, arXiv 2410.13816, there without the z-score)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...types import Scores, Selection, Situation
from ..selection import check_temperature, draw, pick, scored, softmax


@dataclass(frozen=True)
class Config:
    temperature: float = 0.5  # T in standard deviations of the candidates' values; towards 0 it becomes argmax

    def build(self) -> Softmax:
        return Softmax(check_temperature(self.temperature))


@dataclass(frozen=True)
class Softmax:
    temperature: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        weights = softmax(scores.value, scored(scores, situation), self.temperature)
        return pick(chunks, draw(weights, situation.generators), weights)
