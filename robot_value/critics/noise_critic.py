"""The critic of DSRL-NA (Wagenmaker et al. 2025, arXiv 2506.15799): what a noise seed is worth, without denoising it.

    Q    <- returns_k + bootstrap_k Q̄(s', flow(s', z'))     z' = argmax_{n <= N} Q_z(s', z_n), or the policy's own
    Q_z  <- Q̄(s, flow(s, z)),  z ~ N(0, 1)

A noise policy (policies/noise.py) climbs Q_z without a gradient through the flow; without one, the best of N seeds
stands in for it. Defining term: the distillation of Q through the flow into Q_z.
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
from .backups import best_chunk, policy_value, td_target, weighted_mean
from .candidates import values
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .regularizers.chunks import judge
from .seeds import denoise, distillation_loss, draw, no_time
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    candidates: int = 8  # N seeds of the backup, of which one is denoised; 1 asks the policy (a noise policy: DSRL)
    seeds: int = 4  # seeds per row that are denoised for Q_z to learn from; own choice
    members: int = 2  # networks in both ensembles; SAC, on which DSRL stands
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; DSRL uses (2048,) * 3
    layer_norm: bool = True  # LayerNorm in Q and Q_z; steadier bootstrapping (RLPD)
    head: HeadConfig = HeadConfig()  # what Q puts out; Q_z is a number
    gamma: float = 0.99  # discount per control step; DSRL
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; SAC takes the min
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged Q per update; SAC
    lr: float = 3e-4  # Adam learning rate; SAC
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        made = {"networks": networks, "averaged": ("q",), "loss": loss, "noise_values": noise_values}
        return ChunkCritic(self, spec, statistics, tasks, needs_policy=True, **made)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    features, dim = critic.encoder.features, critic.spec.action_dim
    q = QNetwork(features, critic.scope, dim, c.members, c.hidden, c.layer_norm, head)
    return {"q": q, "q_noise": QNetwork(features, critic.spec.horizon, dim, c.members, c.hidden, c.layer_norm)}


def noise_values(critic: ChunkCritic, features: Tensor, noise: Tensor, time: Tensor | None) -> Tensor:
    no_time(time)
    return critic.q_noise(features, noise)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Q loss + Q_z loss; each network only feels its own, and images are encoded for Q's sake."""
    features, chunk = critic.see(batch, generator)
    target = td_target(batch, _following(critic, batch, generator), critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    noise_loss = weighted_mean(distill(critic, batch, features.detach(), generator), batch.weight)
    metrics = {"q_loss": q_loss, "noise_loss": noise_loss, "q": q.mean(), "target": target.mean.mean()}
    return q_loss + noise_loss, metrics


def distill(critic: ChunkCritic, batch: ChunkBatch, features: Tensor, generator: torch.Generator | None) -> Tensor:
    """[E, B]"""
    seeds = draw(critic, len(features), critic.config.seeds, generator)
    chunks = denoise(critic, batch.observation, seeds)
    known = values(critic.target["q"], features, chunks, precision=critic.precision)  # [E, B, n]
    return distillation_loss(judge(critic.q_noise, features, seeds), critic.pessimistic(known))


@torch.no_grad()
def _following(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    """What the next observation is worth: atoms [B, K]."""
    following, observation = critic.ahead(batch, critic.scope, generator), batch.next[critic.scope]
    if critic.config.candidates == 1:
        chunks = critic.propose(observation, 1, generator)
    else:
        seeds = draw(critic, len(following), critic.config.candidates, generator)
        chunks = denoise(critic, observation, best_chunk(critic.q_noise, critic, following, seeds)[:, None])
    return policy_value(critic, following, chunks, generator)
