"""The selection is never used, as if there were no critic (unlike `shadow`, nothing is announced in the log)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...types import Scores, Selection, Situation


@dataclass(frozen=True)
class Config:
    def build(self) -> Never:
        return Never()


class Never:
    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        return np.zeros(len(chunks), bool), "never"
