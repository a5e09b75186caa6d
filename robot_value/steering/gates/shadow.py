"""Score, select and log, but never act: the plain policy drives, and the log says what the critic would have done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...types import Scores, Selection, Situation


@dataclass(frozen=True)
class Config:
    def build(self) -> Shadow:
        return Shadow()


class Shadow:
    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        return np.zeros(len(chunks), bool), "shadow"
