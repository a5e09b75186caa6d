"""V-GPS as published (Nakamoto et al. 2024, arXiv 2410.13816): a Cal-QL critic of single actions ranks whole chunks.

    L = (Q(s, a) - y)^2 + alpha [ log mean_{a~} exp(Q'(s, a~)) - Q(s, a) ]
    y = r + gamma min_i Qbar_i(s', a'),  a' ~ policy;   Q' = max(Q, G_t) for the policy's actions
    score(chunk) = min_i Qbar_i(s, its first action), by the averaged critics; drawn from softmax(score / beta)

Defining term: the first action alone speaks for its chunk. It expects V-GPS's rewards, -1 per step and 0 on the last 3
steps of a success, and the softmax selector (beta 0.1 or 1; 0 is argmax). The policy that is ranked is the actor: its
actions are penalized and backed up, where V-GPS trains a SAC actor that it throws away.
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
from .backups import finite, policy_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .regularizers.chunks import judge, random_chunks
from .regularizers.cql import calibrated, cql
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 1  # V-GPS sees the first action only; more is cal_ql
    samples: int = 4  # actions per row of each kind: random, policy now, policy next; V-GPS uses 10, this is for CPUs
    alpha: float = 5.0  # weight of the penalty; V-GPS
    members: int = 2  # networks in the Q ensemble; V-GPS
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers; V-GPS
    layer_norm: bool = False  # V-GPS has none
    gamma: float = 0.98  # discount per control step; V-GPS
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; V-GPS takes the least of 2
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; V-GPS
    lr: float = 3e-4  # Adam learning rate; V-GPS
    grad_clip: float = 10.0  # largest gradient norm; V-GPS clips nothing
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        if self.scope != 1:
            raise ValueError(
                f"scope: expected 1 (V-GPS scores single actions), got {self.scope}; take cal_ql for chunks"
            )
        return ChunkCritic(
            self,
            spec,
            statistics,
            tasks,
            networks=networks,
            averaged=("q",),
            loss=loss,
            values=lambda critic, features, chunk: critic.target["q"](features, chunk),
            needs_policy=True,
        )


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c = critic.config
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"q": QNetwork(*sizes, c.members, c.hidden, c.layer_norm)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    n = critic.config.samples
    features, action = critic.see(batch, generator)  # [B, F], [B, 1, A]
    following = critic.ahead(batch, 1, generator)
    now = finite(critic.propose(batch.observation, n, generator))  # [B, n, 1, A]
    after = finite(critic.propose(batch.next[1], n, generator))
    target = td_target(batch, policy_value(critic, following, after[:, :1], generator), critic.gamma, 1)
    q, q_loss = critic.q.regress(features, action, target, generator)  # [E, B]
    q_random = judge(critic.q, features, random_chunks(critic, len(action), n, generator))
    q_policy = judge(critic.q, features, torch.cat([now, after], 1))
    others = torch.cat([q_random, calibrated(q_policy, batch.mc_return)], -1)  # [E, B, 3 n]
    penalty = weighted_mean(cql(q, others), batch.weight)
    q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "cql_penalty": penalty, "q": q.mean(), "q_policy": q_policy.mean()}
    return q_loss + critic.config.alpha * penalty, metrics
