"""CO-RFT (Huang et al. 2025, arXiv 2508.02219): every prefix of a chunk is valued, by chunked TD with Cal-QL's floor.

    y_j = returns_j + bootstrap_j min_i Qbar_{k, i}(s_{t+j}, a'),  a' ~ policy + clipped noise,  j = 1 ... k
    L = mean_j (Q_j - y_j)^2 + alpha mean_j [ log mean_{a~} exp(Q'_j(s, a~_{0:j})) - Q_j(s, a_{0:j}) ]

Defining term: a TD target for every prefix, from one pass over the chunk, so that the critic also knows what the first
j steps are worth if the robot decides again after them. The paper's code is not public: weights are own choices, marked
below. Its TD3 actor is the attached policy here; target noise and the twin minimum are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import finite, policy_value, smoothed, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics, one_of
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .prefix_network import KINDS, PrefixNetwork
from .regularizers.chunks import judge, random_chunks
from .regularizers.cql import calibrated, cql

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    network: str = "mlp"  # mlp | transformer over the chunk's steps; CO-RFT's critic expert is a transformer
    samples: int = 2  # chunks per row of each kind in the penalty: random and policy; own choice
    alpha: float = 1.0  # weight of the penalty; own choice, Cal-QL uses 5 with 30 chunks
    smoothing: float = 0.2  # std of the noise on a', in normalized units; TD3
    members: int = 2  # networks in the Q ensemble; TD3's twins
    hidden: tuple[int, ...] = (256, 256, 256)  # mlp: widths; transformer: a block of the first width per entry
    heads: int = 4  # of the transformer's attention
    layer_norm: bool = True  # in the mlp; steadier bootstrapping (RLPD, Q-chunking)
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.99  # discount per control step; own choice
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; TD3
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; TD3
    lr: float = 3e-4  # Adam learning rate; TD3
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        one_of("network", self.network, KINDS)
        return ChunkCritic(
            self,
            spec,
            statistics,
            tasks,
            networks=networks,
            averaged=("q",),
            loss=loss,
            offsets=range(1, (self.scope or spec.horizon) + 1),
            needs_policy=True,
        )


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"q": PrefixNetwork(c.network, *sizes, c.members, c.hidden, c.layer_norm, c.heads, head)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    targets = prefix_targets(critic, batch, generator)  # atoms [B, k, K]
    q, q_loss = critic.q.regress_prefixes(features, chunk, targets, generator)  # [E, B, k]
    now = finite(critic.propose(batch.observation, c.samples, generator))
    drawn = random_chunks(critic, len(chunk), c.samples, generator)
    q_random, q_policy = (judge(critic.q.prefixes, features, x).movedim(3, 1) for x in (drawn, now))  # [E, k, B, n]
    others = torch.cat([q_random, calibrated(q_policy, batch.mc_return)], -1)
    penalty = weighted_mean(cql(q.movedim(2, 1), others), batch.weight)
    q_loss = weighted_mean(q_loss.movedim(2, 1), batch.weight)
    metrics = {"q_loss": q_loss, "cql_penalty": penalty, "q": q[..., -1].mean(), "q_first": q[..., 0].mean()}
    return q_loss + c.alpha * penalty, metrics | {"target": targets.mean.mean()}


@torch.no_grad()
def prefix_targets(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    """atoms [B, k, K]: what the first j steps bring and what a whole chunk of the policy is worth after them."""
    targets = []
    for j in critic.offsets:
        proposed = smoothed(critic, critic.propose(batch.next[j], 1, generator), critic.config.smoothing, generator)
        value = policy_value(critic, critic.ahead(batch, j, generator), proposed, generator)
        targets.append(td_target(batch, value, critic.gamma, j))
    return Distribution(torch.stack([t.atoms for t in targets], 1), torch.stack([t.weights for t in targets], 1))
