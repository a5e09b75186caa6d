"""EXPO's critic (Dong et al. 2025, arXiv 2507.07986) on chunks: the value of the policy that chooses as it goes.

    y = returns_k + bootstrap_k min_{i in Z'} Qbar_i(s', a*)      a* = argmax_{a in C(s')} min_{i in Z} Qbar_i(s', a)

C(s') are the policy's samples; of an edit policy (policies/edit.py) every base sample and its edit. The same choice
acts, as argmax over as many candidates when it steers. Z and Z' are random pairs of the ten averaged members, drawn
apart, so that what was chosen by luck is not valued by it. Defining term: the choice among base and edited chunks in
the target, by averaged members; with one candidate this is RLPD's backup.
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
from .candidates import best_of_n, values
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .ensemble import pool
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; EXPO is 1
    candidates: int = 16  # chunks the policy is asked for; EXPO's 8 samples, each with its edit
    members: int = 10  # networks in the Q ensemble; EXPO
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; EXPO
    layer_norm: bool = True  # EXPO
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in EXPO
    gamma: float = 0.99  # discount per control step; EXPO
    aggregate: str = "subset_min"  # mean | min | subset_min; EXPO: the least of 2 random members
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble; FEdit uses 0.5
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    tau: float = 0.005  # step of the averaged critics per update; EXPO
    lr: float = 3e-4  # Adam learning rate; EXPO
    grad_clip: float = 10.0  # largest gradient norm; EXPO clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    target = td_target(batch, next_value(critic, batch, generator), critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    return q_loss, {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}


@torch.no_grad()
def next_value(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    features = critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], critic.config.candidates, generator)
    chosen = choose(critic, features, proposed, generator)
    return policy_value(critic, features, chosen[:, None], generator)


def choose(critic: ChunkCritic, features: Tensor, proposed: Tensor, generator: torch.Generator | None) -> Tensor:
    """The on-the-fly policy: features [B, F], proposed [B, n, k, A] -> [B, k, A]."""
    c = critic.config
    members = values(critic.target["q"], features, proposed, precision=critic.precision)  # [E, B, n]
    judged = pool(Distribution.point(members), c.aggregate, c.rho, generator=generator).mean
    return best_of_n(judged, proposed)[1]
