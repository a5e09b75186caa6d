"""Resampling of particles by weight (Douc & Cappe 2005), with a generator of its own for every robot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DRAWS = ("systematic", "multinomial")


def shares(weight: Tensor) -> Tensor:
    """float64[B, M], weights that sum to 1; equal ones where no particle of a robot is left."""
    return torch.where((weight > -torch.inf).any(1, keepdim=True), weight, 0.0).softmax(1)


# ESS = 1 / sum_m w_m^2
def effective(share: Tensor) -> Tensor:
    """float64[B]: how many equally weighted particles share [B, M] is worth."""
    return 1 / share.square().sum(1)


def ancestors(share: Tensor, due: Tensor, generators: Sequence[np.random.Generator], draw: str) -> Tensor:
    """int64[B, M]: parents by the inverse of the cumulative weights at M points; itself where nothing is due.

    systematic: (m + u) / M with one u, so that a particle has floor or ceil of M w children. multinomial: M draws.
    """
    batch, m = share.shape
    if draw == "systematic":
        points = np.stack([(np.arange(m) + g.random()) / m for g in generators])
    else:
        points = np.stack([np.sort(g.random(m)) for g in generators])
    cumulative = share.cumsum(1)
    drawn = torch.searchsorted(cumulative, torch.from_numpy(points).to(share.device) * cumulative[:, -1:], right=True)
    itself = torch.arange(m, device=share.device).expand(batch, m)
    return torch.where(due[:, None], drawn.clamp_max(m - 1), itself)
