"""What a critic regresses on: y = sum_{i<k} gamma^i r_i + gamma^k V(s_{t+k}), for every way to say what V is.

A backup turns networks and a batch into the distribution of the next value, atoms [B, K]; `td_target` moves it one
backup earlier, for single actions, n steps, options and chunks alike. The formula stands above each function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sampling import bootstrap, returns
from .candidates import best_of_n, values
from .distribution import Distribution
from .ensemble import pool

if TYPE_CHECKING:
    from ..sampling import ChunkBatch
    from .chunk_critic import ChunkCritic


def td_target(batch: ChunkBatch, following: Distribution | Tensor, gamma: float, k: int) -> Distribution:
    """atoms [B, K]. `bootstrap` is 0 where the episode terminated inside the chunk; time-outs keep their future."""
    if isinstance(following, Tensor):
        following = Distribution.point(following)
    return following.backed_up(returns(batch, gamma, k), bootstrap(batch, gamma, k))


def mc_target(batch: ChunkBatch) -> Distribution:
    """The discounted return that was recorded, to the episode's end."""
    return Distribution.point(batch.mc_return)


# L = mean | tau - 1(u < 0) | u^2, u = q - v: the tau-expectile of q, tau > 0.5 leans to the better actions
def expectile_loss(error: Tensor, tau: float, weight: Tensor) -> Tensor:
    """error u [B], weight [B]."""
    slope = (error < 0).to(error) * (1 - 2 * tau) + tau
    return weighted_mean(slope * error.square(), weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """values [..., B], weight [B]: mean over all entries."""
    return (values * weight).sum() / (weight.sum() * (values.numel() / weight.numel())).clamp_min(1e-12)


# V(s') = agg_i Qbar_i(s', a*), a* = argmax_n agg_i Q_i(s', a_n): online critics select, averaged ones evaluate
@torch.no_grad()
def best_of_n_value(
    critic: ChunkCritic, features: Tensor, proposed: Tensor, generator: torch.Generator | None = None
) -> Distribution:
    """features [B, F] and proposed [B, n, k, A] of the next observation -> atoms [B, K]."""
    precision = getattr(critic.config, "precision", "off")
    _, chosen = best_of_n(critic.pessimistic(values(critic.q, features, proposed, precision=precision)), proposed)
    members = critic.target["q"].distribution(features, chosen, generator)
    return pool(members, critic.config.aggregate, critic.config.rho, generator=generator)
