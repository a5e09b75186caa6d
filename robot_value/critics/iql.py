"""Implicit Q-learning on action chunks: a critic that never asks the policy what it would do next.

    V <- expectile_tau of Q(s, a_{0:k})       Q <- returns_k + bootstrap_k * V(s_{t+k})

Kostrikov et al. 2022 (arXiv 2110.06169), eq. 5-6, with the chunk of k = `scope` steps as the action (Q-chunking, Li et
al. 2025). Defining term: the expectile above 1/2, the value of the better actions in the data; at 1/2 this is SARSA.
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
from .backups import expectile_loss, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics, one_of
from .distribution import Distribution
from .ensemble import aggregate
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

TARGETS = ("q", "v")


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    members: int = 4  # networks in the Q ensemble; measured on Lift, 1 to 4 within noise
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # LayerNorm in Q and V; steadier bootstrapping (RLPD, Q-chunking)
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.98  # discount per control step
    expectile: float = 0.8  # tau of V, 0.5 is the mean; IQL uses 0.7 to 0.9
    aggregate: str = "min"  # mean | min | subset_min over the ensemble, in the V target and in scores
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble; FEdit uses 0.5
    target: str = "q"  # q | v: which network is averaged for targets; IQL averages q, v is cheaper
    tau: float = 0.005  # step of the averaged target per update
    lr: float = 3e-4  # Adam learning rate, constant
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        one_of("target", self.target, TARGETS)
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, averaged=(self.target,), loss=loss)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features, head = critic.config, critic.encoder.features, make_head(critic.config.head, critic.statistics)
    q = QNetwork(features, critic.scope, critic.spec.action_dim, c.members, c.hidden, c.layer_norm, head)
    return {"q": q, "v": VNetwork(features, c.hidden, c.layer_norm)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Q loss + V loss; each network only feels its own."""
    c = critic.config
    features, chunk = critic.see(batch, generator)
    target = _target(critic, batch, generator)
    q, q_loss = critic.q.regress(features, chunk, target, generator)  # [E, B]
    v = critic.v(features.detach())[0]  # [B]: images are encoded for Q's sake
    with torch.no_grad():
        judged = aggregate(critic.target["q"](features, chunk) if c.target == "q" else q, c.aggregate, c.rho)
    q_loss = weighted_mean(q_loss, batch.weight)
    v_loss = expectile_loss(judged - v, c.expectile, batch.weight)
    metrics = {"q_loss": q_loss, "v_loss": v_loss, "q": q.mean(), "v": v.mean(), "target": target.mean.mean()}
    return q_loss + v_loss, metrics


@torch.no_grad()
def _target(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    value = critic.v if critic.config.target == "q" else critic.target["v"]
    following = critic.ahead(batch, critic.scope, generator)
    return td_target(batch, value(following)[0], critic.gamma, critic.scope)
