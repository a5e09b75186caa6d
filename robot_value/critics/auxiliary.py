"""TACO (Zheng et al. 2023, arXiv 2306.13229): features from which, given the actions, the features to come can be told.

    g_i = G(z_t, u_t .. u_{t+k-1})    h_j = P(z_{t+k}, of row j)    loss = -mean_i log softmax_j(g_i' W h_j)_{j=i}

u is a latent of one action, z a projection P of the critic's features. The other rows of the batch are the negatives,
so the encoder must tell what the robot's own actions changed. k is the critic's scope, or where its backup does not
look there, the nearest offset at which it does (TACO: 3). The encoder learns from the present side alone. Left out:
TACO's further losses (CURL, reward prediction), and its latent actions as Q's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.mlp import mlp

if TYPE_CHECKING:
    from ..sampling import ChunkBatch
    from ..types import Spec
    from .chunk_critic import ChunkCritic

WIDTH = 64  # of z, g and h; own choice, as image_features
HIDDEN = 256  # of G; own choice, as the critics' layers


class Taco(nn.Module):
    def __init__(self, features: int, steps: int, spec: Spec) -> None:
        super().__init__()
        if steps > spec.horizon:
            raise ValueError(
                f"encoder.taco: expected a critic that looks ahead by at most the {spec.horizon} steps of a chunk, "
                f"got {steps}; set 0"
            )
        self.steps = steps  # k
        latent = int(1.25 * spec.action_dim) + 1  # TACO's rule
        self.state = nn.Sequential(nn.Linear(features, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh())
        self.action = mlp(spec.action_dim, (WIDTH,), latent)
        self.future = mlp(WIDTH + steps * latent, (HIDDEN,), WIDTH)
        self.weight = nn.Parameter(torch.eye(WIDTH))

    def forward(self, features: Tensor, chunk: Tensor, following: Tensor) -> Tensor:
        """features, following [B, F], chunk [B, k, A] normalized -> logits [B, B], rows i, columns j."""
        actions = self.action(chunk).flatten(1)
        expected = self.future(torch.cat([self.state(features), actions], 1))
        return expected @ self.weight @ self.state(following).T


def info_nce(logits: Tensor, counted: Tensor) -> Tensor:
    """logits [B, B], positives on the diagonal; rows where `counted` bool[B] is False are no row and no negative."""
    unused = ~counted[None, :].expand_as(logits) & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    losses = F.cross_entropy(
        logits.masked_fill(unused, -torch.inf), torch.arange(len(logits), device=logits.device), reduction="none"
    )
    return (losses * counted).sum() / counted.sum().clamp_min(1)


def taco_loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
    """Windows that the episode's end cuts short are left out: their actions are not what led to the last frame."""
    k = critic.taco.steps
    features, chunk = critic.features(batch.observation, generator), critic.actions.normalize(batch.chunks[:, :k])
    logits = critic.taco(features, chunk, critic.ahead(batch, k, generator))
    return info_nce(logits, batch.valid[:, :k].all(1))
