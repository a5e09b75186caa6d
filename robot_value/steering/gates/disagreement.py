"""The critic acts where the policy's candidates disagree: a policy that is sure is left alone (VLA-ATTC, 2605.01194).

    d = mean over pairs i < j of |prefix_i - prefix_j| / sqrt(k A)

Prefixes are the k steps that will be executed, each dim divided by its range: d is the root mean square difference per
number, 0 where all candidates agree and 1 where they are whole ranges apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...types import Scores, Selection, Situation
from ..selectors.medoid import distances


@dataclass(frozen=True)
class Config:
    threshold: float = 0.05  # in ranges (high - low) of the action dims; ours

    def build(self) -> Disagreement:
        if not self.threshold >= 0:
            raise ValueError(f"threshold: expected a share of the actions' range from 0 on, got {self.threshold}")
        return Disagreement(self.threshold)


@dataclass(frozen=True)
class Disagreement:
    threshold: float

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        return (disagreement(chunks, situation) > self.threshold).cpu().numpy(), "abstained"


def disagreement(chunks: torch.Tensor, situation: Situation) -> torch.Tensor:
    """float32[B], over finite candidates; 0 where fewer than two are finite."""
    finite = situation.finite
    prefix = chunks[0, 0, : situation.execute].numel()
    distance = distances(torch.where(finite[:, :, None, None], chunks, 0.0), situation) / prefix**0.5  # [B, N, N]
    pairs = (finite[:, :, None] & finite[:, None, :]).tril(-1)
    return torch.where(pairs, distance, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
