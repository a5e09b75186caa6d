"""The first finite candidate: the plain policy, whatever N is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..selection import pick


@dataclass(frozen=True)
class Config:
    def build(self) -> First:
        return First()


class First:
    uses_critic = False

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        return pick(chunks, situation.finite.int().argmax(1))
