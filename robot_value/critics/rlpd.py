"""RLPD (Ball et al. 2023, arXiv 2302.02948) on action chunks: a critic for recorded and own data at once.

    y = returns_k + bootstrap_k min_{i in Z} Qbar_i(s', a'),  a' ~ policy,  Z a random pair of the ten members

Defining term: LayerNorm in Q, |Q| <= |w| |gelu(LN(.))|: a chunk far off the data cannot get an arbitrary value, which
is what lets recorded data into online learning without a penalty. The other half, a batch of half recorded and half
own episodes and many updates per step, is sampling and belongs to the run (see docs/algorithms/rlpd.md).
No entropy in the backup (RLPD's choice for sparse rewards); the actor is the attached policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import policy_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; RLPD is 1
    members: int = 10  # networks in the Q ensemble; RLPD
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers; RLPD
    layer_norm: bool = True  # RLPD: what keeps values of unseen chunks bounded
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in RLPD
    gamma: float = 0.99  # discount per control step; RLPD
    aggregate: str = "subset_min"  # mean | min | subset_min; RLPD: the least of 2 random members
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; RLPD
    lr: float = 3e-4  # Adam learning rate; RLPD
    grad_clip: float = 10.0  # largest gradient norm; RLPD clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], 1, generator)
    value = policy_value(critic, following, proposed, generator)
    target = td_target(batch, value, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    return q_loss, {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}
