"""CQN-AS (Seo & Abbeel 2025, arXiv 2411.12155): a critic that is its own policy, by zooming into the chunk bin by bin.

    Z_l(s, t, d, b)    value distribution of bin b at level l, given the centres of level l - 1 (all d, steps <= t)
    a* = zoom: b_l = argmax_b E Z_l, independently per step t and dimension d;   y = returns_k + bootstrap_k Z̄_l(s', a*)
    L = lambda CE(projected y, Z_l(s, a)) + beta (margin + dominance of the bins of successful episodes)

The value of any chunk is the mean over its steps and dimensions of E Z at the finest level, at the bins that hold it.
Defining term: level l sees the centre that level l - 1 chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..sampling import bootstrap, returns
from ..types import Spec
from .backups import weighted_mean
from .chunk_bins import ChunkBins, project, taken
from .chunk_critic import ChunkCritic, Metrics
from .coarse_to_fine import Grid, demonstrated, in_box, margin_loss, nan_where_not_finite
from .heads import HeadConfig, bounds

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    levels: int = 3  # L, times each number is zoomed into; CQN-AS
    bins: int = 5  # B, bins per level; CQN-AS, 5^3 = 125 values per number
    atoms: int = 51  # K, of the value distribution; CQN-AS
    low: float = 0.0  # smallest return of the support; low = high takes it from the recorded returns, CQN-AS uses -2
    high: float = 0.0  # largest return of the support; CQN-AS uses 2
    hidden: tuple[int, ...] = (128, 128)  # widths before the GRU over steps, the last is its own; CQN-AS (512, 512)
    gamma: float = 0.99  # discount per control step; CQN-AS
    td_weight: float = 0.1  # lambda; CQN-AS
    bc_weight: float = 1.0  # beta, on episodes with success; CQN-AS, 0 learns from returns alone
    bc_margin: float = 0.1  # in the unit of returns; CQN-AS
    aggregate: str = "mean"  # there is one member
    rho: float = 0.0  # there is one member
    tau: float = 0.02  # step of the averaged network per update; CQN-AS
    lr: float = 3e-4  # AdamW learning rate; CQN-AS uses 5e-5 on images
    weight_decay: float = 0.1  # AdamW, decoupled; CQN-AS
    grad_clip: float = 10.0  # largest gradient norm; CQN-AS clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        made = {"networks": networks, "averaged": ("bins",), "loss": loss, "values": values}
        return ChunkCritic(self, spec, statistics, tasks, weight_decay=self.weight_decay, **made)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, grid = critic.config, Grid(critic.config.levels, critic.config.bins)
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"bins": ChunkBins(*sizes, grid, support(critic), c.hidden)}


def values(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    """[1, rows]. Constant within a cell: there is no gradient with respect to the chunk."""
    index, log_p = critic.bins.along(features, in_box(critic, chunk))
    finest = taken(log_p[:, -1], index[:, -1]).exp() @ critic.bins.atoms  # [rows, k, A]
    return nan_where_not_finite(finest.mean((1, 2))[None], chunk)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    index, log_p = critic.bins.along(features, in_box(critic, chunk))
    target = _target(critic, batch, generator)  # [B, L, k, A, K]
    cross_entropy = -(target * taken(log_p, index)).sum(-1).flatten(1).mean(1)  # [B]
    td_loss = weighted_mean(cross_entropy, batch.weight)
    copied = imitation(log_p.exp(), index, critic.bins.atoms, c.bc_margin)
    bc_loss = weighted_mean(copied, demonstrated(batch.success, batch.weight))
    metrics = {"td_loss": td_loss, "bc_loss": bc_loss, "target": (target @ critic.bins.atoms).mean()}
    return c.td_weight * td_loss + c.bc_weight * bc_loss, metrics


# margin loss on means, and sum_i max(0, F_a(z_i) - F_b(z_i)): the demonstrated bin a should dominate every bin b
def imitation(p: Tensor, index: Tensor, atoms: Tensor, margin: float) -> Tensor:
    """p [rows, L, k, A, B, K], index [rows, L, k, A] -> [rows]."""
    dominated = (taken(p, index).cumsum(-1)[..., None, :] - p.cumsum(-1)).clamp_min(0).sum(-1)
    return margin_loss(p @ atoms, index, margin) + dominated.flatten(1).mean(1)


@torch.no_grad()
def _target(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
    """Online network zooms, averaged one evaluates: float32[B, L, k, A, K], projected onto the support."""
    following = critic.ahead(batch, critic.scope, generator)
    index, log_p = critic.target["bins"].along(following, critic.bins.decode(following))
    r, b = returns(batch, critic.gamma, critic.scope), bootstrap(batch, critic.gamma, critic.scope)
    moved = project(
        r[:, None] + b[:, None] * critic.bins.atoms, critic.bins.atoms
    )  # [B, K, K]: where each atom's mass goes
    return (taken(log_p, index).exp().flatten(1, -2) @ moved).view(*index.shape, -1)


def support(critic: ChunkCritic) -> Tensor:
    """float32[K], in the unit of returns."""
    c = critic.config
    low, high = bounds(HeadConfig(kind="c51", low=c.low, high=c.high), critic.statistics)
    return torch.linspace(low, high, c.atoms)
