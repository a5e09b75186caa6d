"""PVP (Peng et al. 2023, arXiv 2502.03369) on action chunks: what a human did is worth 1, what it replaced -1.

    L = (Q(s, a) - y)^2 + proxy 1[s is a human's] [(Q(s, a_h) - 1)^2 + (Q(s, a_n) + 1)^2]
    y = bootstrap_k min_i Qbar_i(s', a'),  a' ~ policy:  no reward at all

Defining term: the proxy values; the backup only carries them to states before and after. Expects the marks of
`train online --schedule.interventions=pvp` in the place of rewards: 1 where a human acted, 0 elsewhere. A chunk is the
human's if all its steps are. a_n is drawn from the policy anew, where PVP remembers what was overridden: the same
distribution as long as the policy stays, and later what it would do now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import finite, policy_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; PVP is 1
    proxy: float = 1.0  # weight of the proxy values against the backup; PVP
    members: int = 2  # networks in the Q ensemble; PVP, as TD3
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers; PVP
    layer_norm: bool = True  # steadier bootstrapping (RLPD); PVP has none
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in PVP, values lie in [-1, 1]
    gamma: float = 0.99  # discount per control step; PVP
    aggregate: str = "min"  # mean | min | subset_min; PVP, as TD3
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; PVP
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    k = critic.scope
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, k, generator)
    value = policy_value(critic, following, critic.propose(batch.next[k], 1, generator), generator)
    unrewarded = replace(batch, rewards=torch.zeros_like(batch.rewards))
    q, q_loss = critic.q.regress(features, chunk, td_target(unrewarded, value, critic.gamma, k), generator)  # [E, B]
    overridden = critic.q(features, finite(critic.propose(batch.observation, 1, generator))[:, 0])  # [E, B]
    human = by_a_human(batch, k)
    proxy = weighted_mean(((q - 1).square() + (overridden + 1).square()) * human, batch.weight)
    q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "proxy_loss": proxy, "q": q.mean(), "human": human.mean()}
    return q_loss + critic.config.proxy * proxy, metrics


def by_a_human(batch: ChunkBatch, k: int) -> Tensor:
    """float32[B]: 1 where all of the first k steps that were taken are marked."""
    return ((batch.rewards[:, :k] > 0) | ~batch.valid[:, :k]).all(1).float()
