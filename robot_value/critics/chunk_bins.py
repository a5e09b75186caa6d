"""The network of CQN-AS: value distributions (C51) of every bin of every number of a chunk, a level at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.mlp import mlp
from .coarse_to_fine import Grid, pick


class ChunkBins(nn.Module):
    """Value distributions of every bin of every number of a chunk, one level at a time."""

    def __init__(
        self, features: int, scope: int, action_dim: int, grid: Grid, atoms: Tensor, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.grid, self.shape, self.bins = grid, (scope, action_dim), (action_dim, grid.bins, len(atoms))
        self.register_buffer("atoms", atoms, persistent=False)  # float32[K], returns
        self.register_buffer("steps", torch.eye(scope), persistent=False)  # [k, k], which step is asked for
        inputs = features + action_dim + scope + grid.levels
        self.value = Stream(inputs, hidden, action_dim * len(atoms))
        self.advantage = Stream(inputs, hidden, action_dim * grid.bins * len(atoms))

    # dueling: logits = value + advantage - mean over bins of advantage
    def forward(self, features: Tensor, centres: Tensor, level: Tensor) -> Tensor:
        """features [rows, F], centres [rows, k, A] of the level before, level [rows] -> log P [rows, k, A, B, K]."""
        rows = len(features)
        asked = torch.cat([features, F.one_hot(level, self.grid.levels)], -1)[:, None].expand(-1, len(self.steps), -1)
        x = torch.cat([asked, centres, self.steps.expand(rows, -1, -1)], -1)
        advantage = self.advantage(x).unflatten(-1, self.bins)
        value = self.value(x).unflatten(-1, (self.bins[0], 1, self.bins[2]))
        return (value + advantage - advantage.mean(-2, keepdim=True)).log_softmax(-1)

    def along(self, features: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, k, A] in the box -> bins [rows, L, k, A] that lead to it, log P [rows, L, k, A, B, K] on the way."""
        index, centres = self.grid.locate(x)
        levels = torch.arange(self.grid.levels, device=x.device)
        every = features.repeat_interleave(len(levels), 0), centres.flatten(0, 1), levels.repeat(len(x))
        return index, self(*every).unflatten(0, (len(x), -1))

    @torch.no_grad()
    def decode(
        self, features: Tensor, prefix: Tensor | None = None, u: Tensor | None = None, temperature: float = 0.0
    ) -> Tensor:
        """The chunk [rows, k, A] in the box that goes on after prefix [rows, p, A]; see coarse_to_fine.pick for u."""
        rows = len(features)
        cell = torch.zeros((rows, *self.shape), dtype=torch.int64, device=features.device)
        known = None if prefix is None else self.grid.locate(prefix)[0]  # [rows, L, p, A]
        for level in range(self.grid.levels):
            numbers = cell.new_full((rows,), level)
            values = self(features, self.grid.centre(cell, level), numbers).exp() @ self.atoms
            index, u = pick(values, temperature, u)
            if known is not None:
                index = torch.cat([known[:, level], index[:, known.shape[2] :]], 1)
            cell = self.grid.zoom(cell, index)
        return self.grid.centre(cell, self.grid.levels)


class Stream(nn.Module):
    """An MLP per step and a GRU over steps: [rows, k, inputs] -> [rows, k, outputs]."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.net = mlp(inputs, hidden[:-1], hidden[-1], layer_norm=True)
        self.over_steps = nn.GRU(hidden[-1], hidden[-1], batch_first=True)
        self.head = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.over_steps(F.silu(self.net(x)))[0])


def taken(p: Tensor, index: Tensor) -> Tensor:
    """p [..., B, K] at the bins index [...] -> [..., K]."""
    return p.gather(-2, index[..., None, None].expand(*index.shape, 1, p.shape[-1]))[..., 0, :]


# C51's projection: a point between two atoms gives each its share, (1 - |z - z_j| / dz)+; outside counts as the edge
def project(points: Tensor, atoms: Tensor) -> Tensor:
    """points [..., N], atoms [K] evenly spaced -> weights [..., N, K]."""
    inside = points.clamp(atoms[0], atoms[-1])[..., None]
    return (1 - (inside - atoms).abs() / (atoms[1] - atoms[0])).clamp_min(0)
