"""FASTER (Dong et al. 2026, arXiv 2604.19730): best of N for the price of one, by choosing among seeds.

    Q_z(s, z*) <- min_i Q̄_i(s, flow(s, z*))     z* = argmax_{n <= N} Q̄_z(s, z_n): only the winner is ever denoised
    V <- expectile of Q̄     Q <- returns_k + bootstrap_k V(s')

The denoise critic at the noise level, on an implicit Q-learning critic (the paper's FASTER-IDQL). It is taught by the
seeds it chooses: one that it overrates is chosen and corrected. Defining term: the choice among seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import best_chunk, expectile_loss, td_target, weighted_mean
from .candidates import values
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig, make_head
from .regularizers.chunks import judge
from .seeds import denoise, distillation_loss, draw, no_time
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    candidates: int = 8  # N seeds per row, of which one is denoised; FASTER
    expectile: float = 0.8  # tau of V; FASTER-IDQL
    members: int = 2  # networks in both ensembles; FASTER, whose denoise critic is a single one
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; FASTER
    layer_norm: bool = True  # FASTER
    head: HeadConfig = HeadConfig()  # what Q puts out; Q_z and V are numbers
    gamma: float = 0.99  # discount per control step; FASTER
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; FASTER
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged networks per update; FASTER
    lr: float = 3e-4  # Adam learning rate; FASTER
    grad_clip: float = 10.0  # largest gradient norm; FASTER clips nothing
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        made = {"networks": networks, "averaged": ("q", "q_noise"), "loss": loss, "noise_values": noise_values}
        return ChunkCritic(self, spec, statistics, tasks, needs_policy=True, **made)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    features, dim = critic.encoder.features, critic.spec.action_dim
    return {
        "q": QNetwork(features, critic.scope, dim, c.members, c.hidden, c.layer_norm, head),
        "q_noise": QNetwork(features, critic.spec.horizon, dim, c.members, c.hidden, c.layer_norm),
        "v": VNetwork(features, c.hidden, c.layer_norm),
    }


def noise_values(critic: ChunkCritic, features: Tensor, noise: Tensor, time: Tensor | None) -> Tensor:
    no_time(time)
    return critic.target["q_noise"](features, noise)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Q loss + V loss + Q_z loss; each network only feels its own, and images are encoded for Q's sake."""
    c = critic.config
    features, chunk = critic.see(batch, generator)
    following = critic.v(critic.ahead(batch, critic.scope, generator))[0].detach()
    target = td_target(batch, following, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    seen = features.detach()
    with torch.no_grad():
        judged = critic.pessimistic(critic.target["q"](seen, chunk))
    v_loss = expectile_loss(judged - critic.v(seen)[0], c.expectile, batch.weight)
    noise_loss = weighted_mean(distill(critic, batch, seen, generator), batch.weight)
    q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "v_loss": v_loss, "noise_loss": noise_loss, "q": q.mean()}
    return q_loss + v_loss + noise_loss, metrics


def distill(critic: ChunkCritic, batch: ChunkBatch, features: Tensor, generator: torch.Generator | None) -> Tensor:
    """[E, B]"""
    seeds = draw(critic, len(features), critic.config.candidates, generator)
    seed = best_chunk(critic.target["q_noise"], critic, features, seeds)[:, None]  # [B, 1, H, A]
    chunk = denoise(critic, batch.observation, seed)
    known = values(critic.target["q"], features, chunk, precision=critic.precision)
    return distillation_loss(judge(critic.q_noise, features, seed), critic.pessimistic(known))
