"""Iterated Q-learning (Vincent et al. 2025, TMLR, arXiv 2403.02107): K Bellman backups are learned at once, in a chain.

    Q_j(s_t, a) <- returns_k + bootstrap_k * Qbar_{j-1}(s_{t+k}, a*),  a* = argmax_n Qbar_{j-1}(s_{t+k}, a_n),  j = 1..K

Qbar_0 stands still; Qbar_j follows Q_j every D updates. Every T updates the window moves on by one backup:
Qbar_0 <- Q_1 and Q_j <- Q_{j+1}. The chunk's maximum is taken over the policy's proposals, as in Q-chunking.
Defining term: link j is trained on the target of link j - 1, not on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.ema import lerp_
from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import best_of_n_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    links: int = 3  # K, backups that are learned at once; i-DQN's examples use 3 to 5
    shift_every: int = 200  # T, updates between moves of the window; i-DQN's example
    sync_every: int = 10  # D, updates between copies of the links into their targets; i-DQN's example
    candidates: int = 16  # N of the backup; each link evaluates all of them, so fewer than Q-chunking's 32
    members: int = 2  # networks in the ensemble of every link
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # Q-chunking
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.99  # discount per control step
    aggregate: str = "mean"  # mean | min | subset_min over the members of a link
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    lr: float = 3e-4  # Adam learning rate; i-DQN
    grad_clip: float = 10.0  # largest gradient norm, over all links
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        options = {"networks": networks, "loss": loss, "averaged": ("chain",), "needs_policy": True}
        return ChunkCritic(self, spec, statistics, tasks, values=last, after_update=move, **options)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    """chain: Q_1 to Q_K. Its copy critic.target["chain"] holds Qbar_0 to Qbar_{K-1}: what each link is trained on."""
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"chain": nn.ModuleList(QNetwork(*sizes, c.members, c.hidden, c.layer_norm, head) for _ in range(c.links))}


def last(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    """Q_K, which has seen most backups, judges."""
    return critic.chain[-1](features, chunk)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c, k = critic.config, critic.scope
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, k, generator)
    proposed = critic.propose(batch.next[k], c.candidates, generator)
    total, metrics = torch.zeros_like(batch.weight[0]), {}
    for j, (q, before) in enumerate(zip(critic.chain, critic.target["chain"], strict=True), 1):
        value = best_of_n_value(critic, following, proposed, generator, select=before, evaluate=before)
        target = td_target(batch, value, critic.gamma, k)
        mean, q_loss = q.regress(features, chunk, target, generator)
        q_loss = weighted_mean(q_loss, batch.weight)
        total = total + q_loss
        metrics |= {f"q_loss_{j}": q_loss, f"q_{j}": mean.mean()}
    return total, metrics | {"target": target.mean.mean()}


def move(critic: ChunkCritic) -> None:
    """Qbar_j <- Q_j for j >= 1 every D updates; every T the window moves on."""
    c, step, chain, before = critic.config, int(critic.step), critic.chain, critic.target["chain"]
    if step % c.shift_every == 0:
        lerp_(before, chain, 1.0)
        for q, following in pairwise(chain):
            lerp_(q, following, 1.0)
    elif step % c.sync_every == 0:
        for q, average in zip(chain, list(before)[1:], strict=False):
            lerp_(average, q, 1.0)
