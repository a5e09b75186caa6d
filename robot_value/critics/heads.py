"""The two networks of a chunk critic: E values of (features, chunk), and one value of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks.ensemble import EnsembleMLP
from ..networks.mlp import mlp


class QHead(nn.Module):
    """(features [rows, F], chunk [rows, k, A], normalised) -> [E, rows]."""

    def __init__(
        self, features: int, scope: int, action_dim: int, members: int, hidden: Sequence[int], norm: bool
    ) -> None:
        super().__init__()
        self.net = EnsembleMLP(members, features + scope * action_dim, hidden, 1, norm)

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        return self.net(torch.cat([features, chunk.flatten(1)], -1)).squeeze(-1)


class VHead(nn.Module):
    """features [rows, F] -> [rows]."""

    def __init__(self, features: int, hidden: Sequence[int], norm: bool) -> None:
        super().__init__()
        self.net = mlp(features, hidden, 1, norm)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features).squeeze(-1)
