"""A reward of chunks that explains which of two was the better one (Bradley-Terry), from outcomes or rankings.

    L = -log sigmoid(r(s, a+) - r(s, a-)),   a+ the chunk of the higher recorded return                value = r(s, a)
    pairs: every row s and another row drawn with probability ~ exp(-|s - s'|^2 / 2 bandwidth^2), at similar states

DeformPAM (Chen et al. 2024, arXiv 2410.11584) ranks candidates by the reward that is implicit in a policy trained on
people's rankings (DPO); the likelihood is the same, r is explicit here. Only differences at one state mean something.
Defining term: the comparison at one state. Without it r is a regression that explains returns by where the robot was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.observation import EncoderConfig
from ..networks.seeding import uniform
from ..normalize import Statistics
from ..types import Spec
from .backups import weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    bandwidth: float = 0.1  # states this far apart are similar, in standard deviations per feature; own choice
    members: int = 2  # networks in the ensemble
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # as in the other pages
    gamma: float = 1.0  # of the returns that are compared; 1: two chunks of one successful episode tie
    aggregate: str = "mean"  # mean | min | subset_min over the ensemble, in scores
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        if self.bandwidth <= 0:
            raise ValueError(f"bandwidth: expected more than 0 standard deviations, got {self.bandwidth}")
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, loss=loss)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, sizes = critic.config, (critic.encoder.features, critic.scope, critic.spec.action_dim)
    return {"q": QNetwork(*sizes, c.members, c.hidden, c.layer_norm)}  # r, under the name that scores are read from


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    other = neighbours(features.detach(), critic.config.bandwidth, generator)
    better = (batch.mc_return - batch.mc_return[other]).sign()  # [B], 0 where neither is
    lead = critic.q(features, chunk) - critic.q(features, chunk[other])  # [E, B], both at the row's own state
    weight = batch.weight * batch.weight[other] * better.abs()
    right = weighted_mean((better * lead > 0).float(), weight)
    metrics = {"accuracy": right, "compared": better.abs().mean(), "lead": lead.abs().mean()}
    return weighted_mean(F.softplus(-better * lead), weight), metrics


# P(j | i) = softmax_j(-mean |s_i - s_j|^2 / 2 bandwidth^2), j != i, drawn by the largest of logit + Gumbel noise
def neighbours(features: Tensor, bandwidth: float, generator: torch.Generator | None) -> Tensor:
    """features [B, F] -> int64[B]; a row without similar ones gets its nearest."""
    apart = torch.cdist(features, features).square() / features.shape[1]
    similarity = (-apart / (2 * bandwidth**2)).fill_diagonal_(-torch.inf)
    noise = uniform(apart.shape, features.device, generator).clamp(1e-12, 1 - 1e-7)
    return (similarity - (-noise.log()).log()).argmax(1)
