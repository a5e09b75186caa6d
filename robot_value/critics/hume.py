"""Hume's value-query critic (Song et al. 2025, arXiv 2505.21432): values of chunks that are still partly noise.

    y = returns_k + bootstrap_k mean_n min_i Q̄_i(s', a_n, 1),  a_n ~ policy(s')
    L = (Q(s, a, 1) - y)^2 + alpha CalQL(Q(., 1)) + beta (Q(s, x_t, t) - Q̄(s, x_1, 1))^2
    x_t = (1 - t) z + t x_1,  x_1 = flow(s, z) in the critic's units,  t ~ U(0, 1)

At t = 1 it is the ordinary chunk value, at t < 1 the value of the chunk that the policy finishes x_t to, and at t = 0
it judges seeds. Candidates are differently noised chunks, the best is the argmax of min_i Q_i. With `query` a learned
token reads the observation by attention over its parts: frames of state and of each camera, and the text. Through a
frozen VLA's eyes (`encoder.source=policy`, `encoder.pooling=query`) it reads the prefix tokens, as Hume's does.
Defining term: beta, the value of a noisy chunk at its flow time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..flow import interpolate
from ..networks.chunk_head import TIME_FEATURES, time_features
from ..networks.observation import EncoderConfig
from ..networks.seeding import uniform
from ..networks.value_query import observed_parts, over_parts
from ..normalize import Statistics
from ..types import Spec
from .backups import finite, policy_value, td_target, weighted_mean
from .candidates import values
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .regularizers.chunks import judge, random_chunks
from .regularizers.cql import calibrated, cql
from .seeds import denoise, distillation_loss, draw
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed; Hume's LIBERO recipe scores one
    candidates: int = 4  # chunks per row, of the policy and at random, for the backup, Cal-QL and noise; own choice
    alpha: float = 5.0  # weight of Cal-QL; Hume
    beta: float = 1.0  # weight of noisy chunks; own choice
    query: bool = True  # read the observation by a value-query token, else as one vector
    width: int = 64  # of the tokens; Hume 2048, on a vision-language model
    heads: int = 4  # attention heads; Hume 8
    members: int = 2  # networks in the Q ensemble; Hume
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers; V-GPS, whose critic Hume's is
    layer_norm: bool = True  # steadier bootstrapping (RLPD); V-GPS has none
    gamma: float = 0.98  # discount per control step; Hume
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; Hume takes the min
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; V-GPS
    lr: float = 3e-4  # Adam learning rate; Hume 1e-5 on its own features, V-GPS 3e-4
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        made = {"networks": networks, "averaged": ("q",), "loss": loss, "noise_values": noise_values}
        return ChunkCritic(self, spec, statistics, tasks, needs_policy=True, **made)


class NoisyQ(nn.Module):
    """(features [rows, F], chunk [rows, k, A], flow time t [rows] or None for 1) -> [E, rows]."""

    def __init__(self, query: nn.Module, code: int, scope: int, action_dim: int, config: Config) -> None:
        super().__init__()
        self.query = query
        self.q = QNetwork(code + TIME_FEATURES, scope, action_dim, config.members, config.hidden, config.layer_norm)

    def forward(self, features: Tensor, chunk: Tensor, time: Tensor | None = None) -> Tensor:
        time = features.new_ones(len(features)) if time is None else time
        return self.q(torch.cat([self.query(features), time_features(time)], -1), chunk)

    def distribution(self, features: Tensor, chunk: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.point(self(features, chunk))


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features = critic.config, critic.encoder.features
    query, code = nn.Identity(), features
    if c.query and c.encoder.pooling == "mean":  # else the encoder itself asks the policy's tokens
        query, code = over_parts(observed_parts(critic.spec, c.encoder, features), c.width, c.heads), c.width
    return {"q": NoisyQ(query, code, critic.scope, critic.spec.action_dim, c)}


def noise_values(critic: ChunkCritic, features: Tensor, noise: Tensor, time: Tensor | None) -> Tensor:
    time = noise.new_zeros(len(noise)) if time is None else time
    return critic.q(features, noise[:, : critic.scope], time)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    seeds = draw(critic, len(chunk), c.candidates, generator)
    finished = denoise(critic, batch.observation, seeds)  # [B, n, k, A]
    proposed = critic.propose(batch.next[critic.scope], c.candidates, generator)
    following = policy_value(critic, critic.ahead(batch, critic.scope, generator), proposed, generator)
    target = td_target(batch, following, critic.gamma, critic.scope).mean  # [B]
    q = critic.q(features, chunk)  # [E, B]
    td_loss = weighted_mean((q - target).square(), batch.weight)
    imagined = torch.cat([finite(finished), finite(proposed)], 1)
    judged = calibrated(judge(critic.q, features, imagined), batch.mc_return)
    random = judge(critic.q, features, random_chunks(critic, len(chunk), c.candidates, generator))
    cql_loss = weighted_mean(cql(q, torch.cat([judged, random], -1)), batch.weight)
    noisy_loss = weighted_mean(noisy(critic, features, seeds, finished, generator), batch.weight)
    metrics = {"td_loss": td_loss, "cql_loss": cql_loss, "noisy_loss": noisy_loss, "q": q.mean()}
    return td_loss + c.alpha * cql_loss + c.beta * noisy_loss, metrics


def noisy(
    critic: ChunkCritic, features: Tensor, seeds: Tensor, finished: Tensor, generator: torch.Generator | None
) -> Tensor:
    """seeds [B, n, H, A] and the chunks [B, n, k, A] that came of them -> [E, B], at one random time each."""
    n = seeds.shape[1]
    t = uniform((len(features) * n,), critic.device, generator)
    x_t = interpolate(seeds[:, :, : critic.scope].flatten(0, 1), finite(finished).flatten(0, 1), t)
    judged = critic.q(features.repeat_interleave(n, 0), x_t, t).unflatten(1, (-1, n))
    known = values(critic.target["q"], features, finished, precision=critic.precision)
    return distillation_loss(judged, critic.pessimistic(known))
