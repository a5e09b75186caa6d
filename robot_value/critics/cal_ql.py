"""Calibrated Q-learning on action chunks (Cal-QL, Nakamoto et al. 2023, arXiv 2303.05479): V-GPS's objective.

    L = (Q(s, a) - y)^2 + alpha [ T log mean_{a~} exp(Q'(s, a~) / T) - Q(s, a) ]
    y = returns_k + bootstrap_k min_i Qbar_i(s', a'),  a' ~ policy
    a~: uniformly random, from the policy at s, from the policy at s';   Q' = max(Q, G_t) for the policy's chunks

Defining term: the floor G_t, the recorded return to go. Without it (`calibrated=False`, CQL) values sink below what
was really achieved, and the first better chunk seen online looks like a miracle. The generalist that will be steered
is the actor: its chunks are penalized and backed up; Cal-QL's own SAC actor, which V-GPS discards, does not exist.
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
from .backups import best_chunk, finite, policy_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .regularizers.chunks import judge, random_chunks
from .regularizers.cql import calibrated, cql
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    samples: int = 4  # chunks per row of each kind: random, policy now, policy next; Cal-QL uses 10, this is for CPUs
    alpha: float = 5.0  # weight of the penalty; Cal-QL, V-GPS
    temperature: float = 1.0  # T of the log-sum-exp, in the unit of returns; Cal-QL
    calibrated: bool = True  # the floor; False is CQL
    max_target_backup: bool = False  # back up the best of the next chunks instead of one; Cal-QL does on antmaze
    members: int = 2  # networks in the Q ensemble; Cal-QL
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # LayerNorm in Q; steadier bootstrapping (RLPD, Q-chunking)
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.98  # discount per control step; V-GPS
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; Cal-QL takes the least of 2
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; Cal-QL
    lr: float = 3e-4  # Adam learning rate; Cal-QL
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, critic.scope, generator)
    drawn = random_chunks(critic, len(chunk), c.samples, generator)
    now = finite(critic.propose(batch.observation, c.samples, generator))  # [B, n, k, A], as the others
    after = finite(critic.propose(batch.next[critic.scope], c.samples, generator))
    backed_up = best_chunk(critic.target["q"], critic, following, after) if c.max_target_backup else after[:, 0]
    value = policy_value(critic, following, backed_up[:, None], generator)
    target = td_target(batch, value, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)  # [E, B]
    others = judge(critic.q, features, torch.cat([drawn, now, after], 1))  # [E, B, 3 n]
    q_random, q_policy = others[..., : c.samples], others[..., c.samples :]
    floored = calibrated(q_policy, batch.mc_return) if c.calibrated else q_policy
    penalty = weighted_mean(cql(q, torch.cat([q_random, floored], -1), c.temperature), batch.weight)
    q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "cql_penalty": penalty, "q": q.mean(), "target": target.mean.mean()}
    metrics |= {"q_random": q_random.mean(), "q_policy": q_policy.mean()}
    metrics["floored"] = (q_policy < batch.mc_return[:, None]).float().mean()  # share of chunks below the floor
    return q_loss + c.alpha * penalty, metrics
