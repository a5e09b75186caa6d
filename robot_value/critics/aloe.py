"""ALOE's critic (arXiv 2602.12691): what the policy that is being trained is worth, pessimistically.

    y = returns_k + bootstrap_k min_m Qbar_m(s_{t+k}, a'),  a' ~ pi       Q_pess = min_m Q_m

All members regress on one target, so they differ by their initial weights alone, most where data is thin; the least of
them is what the actor's advantage is made of (policies/advantage_weighted.py). The target as published has no end;
here `bootstrap` is 0 once an episode terminated. Defining term: the least member, in the target and in Q_pess.
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
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the horizon; ALOE 25 of 50
    samples: int = 1  # chunks of the policy in the target; ALOE draws one
    members: int = 4  # M; own choice, the paper's number is not published
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; ALOE has a transformer on frozen features
    layer_norm: bool = True  # steadier bootstrapping (RLPD, Q-chunking)
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in ALOE
    gamma: float = 0.99  # discount per control step; ALOE
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; ALOE takes the least
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; ALOE
    lr: float = 3e-4  # Adam learning rate; ALOE uses 3e-5 beside a model of 3 billion weights
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features; source=policy is ALOE's frozen trunk
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], critic.config.samples, generator)
    value = policy_value(critic, following, proposed, generator)
    target = td_target(batch, value, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "q": q.mean(), "pessimistic": critic.pessimistic(q).mean()}
    return q_loss, metrics | {"target": target.mean.mean()}
