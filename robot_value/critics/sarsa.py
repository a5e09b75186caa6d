"""SARSA on chunks: the value of the policy that made the data, by bootstrapping on what it did next.

    Q(s_t, a_{t:t+k}) <- returns_k + bootstrap_k * agg_i Qbar_i(s_{t+k}, a_{t+k:t+2k})

One policy-improvement step over such a critic (choosing among the policy's chunks by it) is the one-step RL of
Brandfonbrener et al. 2021, arXiv 2106.08909: no maximum in the backup, so nothing outside the data is ever believed.
Defining term: the chunk that the dataset recorded at t + k. Where an episode ran out of time, its last action is held.
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
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    members: int = 2  # networks in the Q ensemble
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # steadier bootstrapping (RLPD, Q-chunking)
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.99  # discount per control step
    aggregate: str = "mean"  # mean | min | subset_min; nothing is maximized, so nothing needs pessimism
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        options = {"networks": q_alone, "averaged": ("q",), "loss": loss, "next_chunks": True}
        return ChunkCritic(self, spec, statistics, tasks, **options)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    k = critic.scope
    features, chunk = critic.see(batch, generator)
    value = policy_value(critic, critic.ahead(batch, k, generator), recorded_next(critic, batch)[:, None], generator)
    target = td_target(batch, value, critic.gamma, k)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    return q_loss, {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}


def recorded_next(critic: ChunkCritic, batch: ChunkBatch) -> Tensor:
    """[B, scope, A], normalized."""
    if critic.scope not in batch.next_chunks:
        raise ValueError(
            f"batch: expected the chunks recorded at offset {critic.scope}, got {sorted(batch.next_chunks)}; "
            "make the sampler with next_chunks=True"
        )
    return critic.actions.normalize(batch.next_chunks[critic.scope][:, : critic.scope])
