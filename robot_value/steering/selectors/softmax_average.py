"""The average chunk, weighted by softmax(zscore(value) / T): soft use of the critic (Q-Planning, arXiv 2608.21204)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...types import Scores, Selection, Situation
from ..selection import average, check_temperature, scored, softmax


@dataclass(frozen=True)
class Config:
    temperature: float = 0.5  # T in standard deviations of the candidates' values; towards infinity it becomes mean

    def build(self) -> SoftmaxAverage:
        return SoftmaxAverage(check_temperature(self.temperature))


@dataclass(frozen=True)
class SoftmaxAverage:
    temperature: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        return average(chunks, softmax(scores.value, scored(scores, situation), self.temperature), situation)
