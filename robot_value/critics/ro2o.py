"""RO2O (Wen et al. 2024, arXiv 2309.16973) on chunks: one robust loss for offline and online data.

    L = (Q_i(s, a) - y)^2 + eta_1 smooth(Q_i(s~, a), Q_i(s, a)) + eta_2 (Q_i(s~, a~) - sg[Q_i(s~, a~) - alpha std Q])^2
    y = returns_k + bootstrap_k min_i Qbar_i(s', a'),  a' ~ policy;   s~ = s + noise,  a~ ~ policy

Defining term: the disagreement of the ten members off the data lowers their values there, alpha std, more at first
(alpha goes from 1 to 0.1). s~ is noise on the features, for a plain state the normalized state itself. RO2O's third
term smooths its actor; ours is the attached policy and not trained here.
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
from .backups import finite, policy_value, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .regularizers import RegularizerConfig
from .regularizers.chunks import judge
from .regularizers.robust import perturbed, smoothness, uncertainty
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; RO2O is 1
    members: int = 10  # networks in the Q ensemble; RO2O
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; RO2O
    layer_norm: bool = False  # RO2O has none
    smooth_weight: float = 1e-4  # eta_1; RO2O
    smooth_slope: float = 0.2  # tau: rises of Q count 1 - tau, falls tau; RO2O
    epsilon: float = 0.01  # reach of s~, in features (standard deviations of a state); RO2O
    copies: int = 4  # s~ per row, the worst counts; RO2O uses 20, this is for CPUs
    uncertainty_weight: float = 0.1  # eta_2; RORL uses 0.1 to 0.5
    alpha: float = 1.0  # of the disagreement, at first; RO2O
    alpha_last: float = 0.1  # and in the end; RO2O
    alpha_steps: int = 100_000  # updates from the one to the other, linear; own choice for short runs
    samples: int = 2  # policy chunks a~ per row; own choice, RO2O takes one per perturbed state
    gamma: float = 0.99  # discount per control step; RO2O
    aggregate: str = "min"  # mean | min | subset_min over the ensemble; RO2O takes the least of all
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update; RO2O
    lr: float = 3e-4  # Adam learning rate; RO2O
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=networks, averaged=("q",), loss=loss, needs_policy=True
        )


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c = critic.config
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"q": QNetwork(*sizes, c.members, c.hidden, c.layer_norm)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    following = critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], 1, generator)
    target = td_target(batch, policy_value(critic, following, proposed, generator), critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)  # [E, B]
    noisy = critic.q(perturbed(features, c.epsilon, c.copies, generator), chunk.repeat(c.copies, 1, 1))
    smooth = smoothness(q, noisy, c.smooth_slope)
    unseen = finite(critic.propose(batch.observation, c.samples, generator))  # [B, n, k, A]
    elsewhere = judge(critic.q, perturbed(features, c.epsilon, 1, generator), unseen)  # [E, B, n]
    doubt = uncertainty(elsewhere, alpha(critic)).mean(-1)
    parts = [weighted_mean(part, batch.weight) for part in (q_loss, smooth, doubt)]
    metrics = dict(zip(("q_loss", "smoothness", "uncertainty"), parts, strict=True))
    metrics |= {"q": q.mean(), "q_policy": elsewhere.mean(), "target": target.mean.mean()}
    return parts[0] + c.smooth_weight * parts[1] + c.uncertainty_weight * parts[2], metrics


def alpha(critic: ChunkCritic) -> Tensor:
    """[]: from config.alpha down to config.alpha_last with the updates made."""
    c = critic.config
    return c.alpha + (c.alpha_last - c.alpha) * (critic.step / c.alpha_steps).clamp_max(1.0)
