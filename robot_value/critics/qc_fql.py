"""QC-FQL (Li et al. 2025, arXiv 2507.07969): Q-chunking's critic for a one-step actor; scope 1 is FQL (2502.02538).

    y = returns_k + bootstrap_k agg_i Qbar_i(s_{t+k}, mu(s_{t+k}, z)),  z ~ N(0, 1)

The actor climbs the critic itself, so one of its chunks is already a good one: no candidates, a 320th of QC's calls of
the policy. Train it with `--policy.type=one_step`; other policies' samples are valued as well.
Defining term: the policy's own sample in the backup, a* = mu(s', z), where QC takes the best of N clones.
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
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; 1 is FQL
    members: int = 2  # networks in the Q ensemble; QC-FQL
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; QC-FQL uses (512,) * 4
    layer_norm: bool = True  # QC-FQL
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in QC-FQL
    gamma: float = 0.99  # discount per control step; QC-FQL
    aggregate: str = "mean"  # mean | min | subset_min; QC-FQL takes the mean
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; QC-FQL
    lr: float = 3e-4  # Adam learning rate; QC-FQL
    grad_clip: float = 10.0  # largest gradient norm; QC-FQL clips nothing
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
