"""Histories that mean the same get the same features: distance of features = difference of rewards and of futures.

Bisimulation metric as a loss (DBC, Zhang et al. 2021, arXiv 2006.10742), on features of observation histories (Hong
et al. 2023, arXiv 2310.20663), with the chunk's discounted reward in the place of one step's.
"""

from __future__ import annotations

import torch
from torch import Tensor


# L = (|phi_i - phi_j|_1 - |R_i - R_j| - sg |b_i phi'_i - b_j phi'_j|_1)^2 over pairs (i, j) of the batch
# b = gamma^k, 0 where the episode terminated: an end is the same future for all
def bisimulation(
    features: Tensor, following: Tensor, reward: Tensor, bootstrap: Tensor, order: Tensor | None = None
) -> Tensor:
    """features and following (k steps later) [B, F], reward R and bootstrap b [B], order int64[B] gives j -> [B]."""
    j = torch.arange(len(reward), device=reward.device).roll(1) if order is None else order
    future = bootstrap[:, None] * following
    here, after = ((x - x[j]).abs().sum(-1) for x in (features, future))
    return (here - (reward - reward[j]).abs() - after.detach()).square()
