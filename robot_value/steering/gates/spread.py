"""The critic acts where its ensemble agrees about the chosen candidate; abstains where it has not seen the like.

A new chunk (index -1) counts as the candidates it was made of: their spreads averaged by the selection's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...types import Scores, Selection, Situation
from ..confidence import deviation
from ..selection import scored


@dataclass(frozen=True)
class Config:
    threshold: float = 1.0  # highest spread that may act; ours
    relative: bool = True  # in standard deviations of the candidates' values (signal to noise); False: in value units

    def build(self) -> Spread:
        if not self.threshold >= 0:
            raise ValueError(f"threshold: expected a spread from 0 on, got {self.threshold}")
        return Spread(self.threshold, self.relative)


@dataclass(frozen=True)
class Spread:
    threshold: float
    relative: bool

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        usable = scored(scores, situation)
        limit = self.threshold * (deviation(scores.value, usable) if self.relative else 1.0)
        return (chosen(scores.spread, selection, usable) <= limit).cpu().numpy(), "abstained"  # NaN never acts


def chosen(spread: torch.Tensor, selection: Selection, usable: torch.Tensor) -> torch.Tensor:
    """float32[B]: spread [B, N] of the selection; NaN where it was not scored."""
    spread = torch.where(usable, spread, torch.nan)
    picked = spread.gather(1, selection.index.clamp_min(0)[:, None])[:, 0]
    blend = torch.where(selection.weights > 0, selection.weights * spread, 0.0).sum(1)
    return torch.where(selection.index >= 0, picked, blend)
