"""Monte-Carlo: a critic that regresses on what came of the recorded chunk, and bootstraps on nothing.

    Q <- G_t = sum_{i >= 0} gamma^i r_{t+i}, to the episode's end

The value of the policies that made the data. Where time ran out the rest counts as 0: a time limit pulls values down.
Defining term: the target is the recorded return, no value network takes part in it (Sutton & Barto, section 5.1).
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
from .backups import mc_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    members: int = 2  # networks in the Q ensemble; their spread is all the doubt there is
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # as in the other pages, so that only the backup differs
    head: HeadConfig = HeadConfig()  # what Q puts out; RECAP takes a categorical one
    gamma: float = 0.99  # discount per control step
    aggregate: str = "mean"  # mean | min | subset_min over the ensemble, in scores
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(self, spec, statistics, tasks, networks=q_alone, loss=loss)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    target = mc_target(batch)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    return q_loss, {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}
