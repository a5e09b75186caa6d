"""VGAS (Xu et al. 2026, arXiv 2602.07399): a chunk critic for few demonstrations, told that near misses are misses.

    y = returns_k + bootstrap_k E max over N of the policy's chunks of Qbar(s', a')
    L = (Q(s, a) - y)^2 + margin([Q(s, a~) - (y - lambda d(a, a~))]_+^2) + rank((Q_i - Q_j - lambda (d_j - d_i))^2)

Defining term: explicit geometric regularization, the last two. Among a~ (the policy's chunks at s, and the recorded one
with noise) value falls with the distance d to the recorded chunk, where five demonstrations alone would leave it flat.
It takes every recorded chunk for good: train it on successes (`--success-only`), not on play or failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.observation import EncoderConfig
from ..networks.seeding import normal
from ..normalize import Statistics
from ..types import Spec
from .backups import expected_max_value, finite, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics, one_of
from .heads import HeadConfig, make_head
from .prefix_network import KINDS, PrefixNetwork
from .regularizers import RegularizerConfig, geometry
from .regularizers.chunks import judge

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; VGAS 32 of 50
    network: str = "transformer"  # mlp | transformer over the chunk's steps; Q-Chunk-Former is a transformer
    candidates: int = 8  # M policy chunks at s' and at s; VGAS
    subset: int = 8  # N of the expected maximum, at most `candidates`; equal to it is the plain maximum
    noise: float = 0.02  # std of the noise on recorded chunks, in normalized units; VGAS
    slope: float = 5.0  # lambda: value lost per unit of distance; VGAS, for returns in [0, 1] rather 1
    margin_weight: float = 1.0  # of the margin; own choice
    rank_weight: float = 1.0  # of the pairwise rank; VGAS
    members: int = 2  # networks in the Q ensemble; VGAS
    hidden: tuple[int, ...] = (64, 64)  # transformer: a block of the first width per entry; mlp: widths
    heads: int = 4  # of the transformer's attention
    layer_norm: bool = True  # in the mlp
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.98  # discount per control step; VGAS
    aggregate: str = "mean"  # mean | min | subset_min over the ensemble; VGAS
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        one_of("network", self.network, KINDS)
        return ChunkCritic(
            self, spec, statistics, tasks, networks=networks, averaged=("q",), loss=loss, needs_policy=True
        )


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"q": PrefixNetwork(c.network, *sizes, c.members, c.hidden, c.layer_norm, c.heads, head)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], c.candidates, generator)
    value = expected_max_value(critic, following, proposed, c.subset, generator)
    target = td_target(batch, value, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)  # [E, B]
    others = near_misses(critic, batch, chunk, generator)  # [B, M + 1, k, A]
    q_other, distances = judge(critic.q, features, others), geometry.distance(chunk, others)
    margin = geometry.margin(q_other, target.mean, distances, c.slope)
    rank = geometry.rank(q_other, distances, c.slope)
    parts = [weighted_mean(part, batch.weight) for part in (q_loss, margin, rank)]
    metrics = dict(zip(("q_loss", "margin", "rank"), parts, strict=True))
    metrics |= {"q": q.mean(), "q_other": q_other.mean(), "target": target.mean.mean(), "distance": distances.mean()}
    return parts[0] + c.margin_weight * parts[1] + c.rank_weight * parts[2], metrics


def near_misses(critic: ChunkCritic, batch: ChunkBatch, chunk: Tensor, generator: torch.Generator | None) -> Tensor:
    """[B, M + 1, k, A], normalized: the policy's chunks and the recorded one with a little noise."""
    noisy = chunk + critic.config.noise * normal(chunk.shape, chunk.device, generator)
    return torch.cat(
        [finite(critic.propose(batch.observation, critic.config.candidates, generator)), noisy[:, None]], 1
    )
