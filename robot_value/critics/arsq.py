"""Auto-regressive soft Q-network (Liu et al., ICML 2025, arXiv 2502.00288) on chunks, coarse to fine.

    Q(s, a) = V(s) + sum_i A_i(s, a_<i, a_i)     A_i = u_i - alpha log sum_b exp(u_i(b) / alpha)
    L = (V(s) + A(s, a) - y)^2 + beta margin(A_i)     y = returns_k + bootstrap_k min_j V̄_j(s_{t+k})

i runs over levels, steps and dimensions, in this order. exp(A / alpha) is the soft policy and V = alpha log sum_a
exp(Q / alpha) its soft value, exactly, without a sample of next actions.
Defining term: A_i sees the bins chosen before i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.mlp import mlp
from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .coarse_to_fine import Grid, demonstrated, in_box, margin_loss, nan_where_not_finite, pick
from .ensemble import aggregate
from .value_networks import VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    levels: int = 2  # L, times each number is zoomed into; ARSQ on D4RL
    bins: int = 7  # B, bins per level; ARSQ on D4RL
    alpha: float = 0.001  # temperature, in returns per nat; own choice: each of a chunk's numbers adds up to ln B nats
    members: int = 2  # networks in the V ensemble; ARSQ
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers; own choice
    layer_norm: bool = True  # LayerNorm in V
    gamma: float = 0.99  # discount per control step; CQN
    bc_weight: float = 1.0  # beta, on episodes with success; CQN, 0 learns from returns alone
    bc_margin: float = 0.1  # in the unit of returns; CQN
    aggregate: str = "min"  # mean | min | subset_min over the V ensemble; ARSQ takes the min
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.02  # step of the averaged V per update; CQN
    lr: float = 3e-4  # Adam learning rate; own choice
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        made = {"networks": networks, "averaged": ("v", "bins"), "loss": loss, "values": values}
        return ChunkCritic(self, spec, statistics, tasks, **made)


class ChunkAdvantage(nn.Module):
    """Soft advantages of the bins of every number, one after the other: n = k * A numbers per level."""

    def __init__(
        self, features: int, scope: int, action_dim: int, grid: Grid, alpha: float, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.grid, self.alpha, self.shape, n = grid, alpha, (scope, action_dim), scope * action_dim
        self.asked = nn.Linear(features + n, hidden[0])  # what was seen, and the centres of the level before
        self.place = nn.Parameter(torch.randn(grid.levels, n, hidden[0]))
        self.chosen = nn.Parameter(torch.randn(grid.levels, n, grid.bins, hidden[0]) / n**0.5)  # what a bin tells
        self.net = nn.Sequential(nn.LayerNorm(hidden[0]), nn.GELU(), mlp(hidden[0], hidden[1:], grid.bins))

    def soft(self, h: Tensor) -> Tensor:
        """h [..., width] -> A [..., B] with sum exp(A / alpha) = 1."""
        return self.alpha * (self.net(h) / self.alpha).log_softmax(-1)

    def forward(self, features: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, k, A] in the box -> its bins [rows, L, n] and the advantages of all bins [rows, L, n, B]."""
        index, centres = (each.flatten(2) for each in self.grid.locate(x))
        asked = self.asked(torch.cat([features[:, None].expand(-1, self.grid.levels, -1), centres], -1))
        levels, numbers = (torch.arange(size, device=x.device) for size in self.place.shape[:2])
        told = self.chosen[levels[:, None], numbers, index]  # [rows, L, n, width]
        before = F.pad(told[:, :, :-1], (0, 0, 1, 0)).cumsum(2)  # i only sees what was chosen before it
        return index, self.soft(asked[:, :, None] + self.place + before)

    @torch.no_grad()
    def decode(
        self, features: Tensor, prefix: Tensor | None = None, u: Tensor | None = None, temperature: float = 0.0
    ) -> Tensor:
        """The chunk [rows, k, A] in the box that goes on after prefix [rows, p, A]; see coarse_to_fine.pick for u."""
        n, known = self.place.shape[1], 0
        cell = torch.zeros((len(features), n), dtype=torch.int64, device=features.device)
        u = None if u is None else u.flatten(1).clone()  # [rows, n]
        if prefix is not None:
            given, known = self.grid.locate(prefix)[0].flatten(2), prefix[0].numel()  # [rows, L, known]
        for level in range(self.grid.levels):
            h = self.asked(torch.cat([features, self.grid.centre(cell, level)], -1))  # what was seen and told so far
            index = torch.empty_like(cell)
            for i in range(n):
                advantage = self.soft(h + self.place[level, i])
                index[:, i], left = pick(advantage, temperature, None if u is None else u[:, i])
                if i < known:
                    index[:, i] = given[:, level, i]
                if u is not None:
                    u[:, i] = left
                h = h + self.chosen[level, i][index[:, i]]
            cell = self.grid.zoom(cell, index)
        return self.grid.centre(cell, self.grid.levels).unflatten(1, self.shape)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features = critic.config, critic.encoder.features
    sizes = features, critic.scope, critic.spec.action_dim
    bins = ChunkAdvantage(*sizes, Grid(c.levels, c.bins), c.alpha, c.hidden)
    return {"bins": bins, "v": VNetwork(features, c.hidden, c.layer_norm, members=c.members)}


def values(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    """[E, rows]. Constant within a cell: there is no gradient with respect to the chunk."""
    index, advantage = critic.bins(features, in_box(critic, chunk))
    return nan_where_not_finite(critic.v(features) + total(advantage, index), chunk)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    index, advantage = critic.bins(features, in_box(critic, chunk))
    q = critic.v(features) + total(advantage, index)  # [E, B]
    target = _target(critic, batch, generator)  # [B]
    td_loss = weighted_mean((q - target).square(), batch.weight)
    bc_loss = weighted_mean(margin_loss(advantage, index, c.bc_margin), demonstrated(batch.success, batch.weight))
    metrics = {"td_loss": td_loss, "bc_loss": bc_loss, "q": q.mean(), "target": target.mean()}
    return td_loss + c.bc_weight * bc_loss, metrics


def total(advantage: Tensor, index: Tensor) -> Tensor:
    """advantage [rows, L, n, B] at the bins [rows, L, n], summed -> [rows]."""
    return advantage.gather(-1, index[..., None]).flatten(1).sum(1)


@torch.no_grad()
def _target(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
    following = critic.target["v"](critic.ahead(batch, critic.scope, generator))  # [E, B]
    value = aggregate(following, critic.config.aggregate, critic.config.rho)
    return td_target(batch, value, critic.gamma, critic.scope).mean
