"""The candidate with the least total distance to all others: the crowd's choice without a critic.

Distance is Euclidean over the steps that will be executed, each dim divided by its range (high - low of the Spec).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...types import Scores, Selection, Situation
from ..rotations import align_signs
from ..selection import pick


@dataclass(frozen=True)
class Config:
    def build(self) -> Medoid:
        return Medoid()


class Medoid:
    uses_critic = False

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        finite = situation.finite
        distance = distances(torch.where(finite[:, :, None, None], chunks, 0.0), situation)
        total = torch.where(finite[:, None, :], distance, 0.0).sum(2).masked_fill(~finite, torch.inf)
        return pick(chunks, total.argmin(1))


def distances(chunks: torch.Tensor, situation: Situation) -> torch.Tensor:
    """[B, N, N] between the executed prefixes of chunks [B, N, H, A]."""
    spec = situation.spec
    if spec is not None:
        chunks = align_signs(chunks, situation.finite.int().argmax(1), spec)
        chunks = chunks / torch.as_tensor(spec.high - spec.low, device=chunks.device)
    prefix = chunks[:, :, : situation.execute].flatten(2)
    return torch.cdist(prefix, prefix, compute_mode="donot_use_mm_for_euclid_dist")  # exact, so that ties are ties
