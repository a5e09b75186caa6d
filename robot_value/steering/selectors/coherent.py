"""The candidate that best continues what the robot was last told (backward coherence of BID, arXiv 2408.17355).

    argmin_n  sum_i decay^i |(a_n[i] - previous[i]) / range|,   i over the steps that the last decision spoke of

Without a last decision it is the first candidate, which is the plain policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..rotations import align_signs
from ..selection import best, scored


@dataclass(frozen=True)
class Config:
    decay: float = 0.5  # weight of a step relative to the one before (the authors' diffusion code); 1: all alike
    top: float = 0.0  # share of the candidates, best by value, that compete (rounded up); 0: all, without a critic

    def build(self) -> Coherent:
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay: expected a number above 0 and at most 1, got {self.decay}; 1 weighs all alike")
        if not 0 <= self.top <= 1:
            raise ValueError(f"top: expected a share from 0 (no critic) to 1, got {self.top}")
        return Coherent(self.decay, self.top)


@dataclass(frozen=True)
class Coherent:
    decay: float
    top: float

    @property
    def uses_critic(self) -> bool:
        return self.top > 0

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        usable = scored(scores, situation) if self.uses_critic else situation.finite
        if situation.previous is None:
            return best(chunks, torch.zeros_like(scores.value), usable)
        known = situation.previous.isfinite().all(2)  # bool[B, H]
        if self.uses_critic:
            usable = usable & (best_share(scores.value, usable, self.top) | ~known.any(1, keepdim=True))
        return best(chunks, -self._distance(chunks, known, situation), usable)

    def _distance(self, chunks: torch.Tensor, known: torch.Tensor, situation: Situation) -> torch.Tensor:
        """[B, N] from the last decision, 0 where there was none."""
        spec, (batch, _, horizon, _) = situation.spec, chunks.shape
        both = torch.cat([situation.previous[:, None].nan_to_num(0.0), chunks], 1)
        both = align_signs(both, torch.zeros(batch, dtype=torch.int64, device=chunks.device), spec)
        gap = both[:, 1:] - both[:, :1]
        if spec is not None:
            gap = gap / torch.as_tensor(spec.high - spec.low, device=chunks.device)
        weight = self.decay ** torch.arange(horizon, device=chunks.device)
        return (gap.norm(dim=3) * torch.where(known, weight, 0.0)[:, None]).sum(2)


def best_share(value: torch.Tensor, usable: torch.Tensor, share: float) -> torch.Tensor:
    """bool[B, N]: the best by value, ceil(share * usable candidates) of them."""
    rank = value.masked_fill(~usable, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
    return rank < (share * usable.sum(1, keepdim=True).double() - 1e-9).ceil()  # 0.1 * 30 is more than 3 in floats
