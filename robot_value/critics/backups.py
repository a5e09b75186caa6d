"""What a critic regresses on: targets without policy samples, for chunks of k steps.

expectile   y = sum_{i<k} gamma^i r_i + gamma^k V(s_{t+k})      (IQL, Kostrikov et al. 2022, on chunks)
mc          y = sum_i gamma^i r_i to the episode's end
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..sampling import bootstrap, returns

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

BACKUPS = ("expectile", "mc")


def td_target(batch: ChunkBatch, next_value: Tensor, gamma: float, k: int) -> Tensor:
    """float32[B]. `bootstrap` is 0 where the episode terminated inside the chunk; time-outs keep their future."""
    return returns(batch, gamma, k) + bootstrap(batch, gamma, k) * next_value


# L = mean | tau - 1(u < 0) | u^2, u = q - v: the tau-expectile of q, tau > 0.5 leans to the better actions
def expectile_loss(error: Tensor, tau: float, weight: Tensor) -> Tensor:
    """error u [B], weight [B]."""
    slope = (error < 0).to(error) * (1 - 2 * tau) + tau
    return weighted_mean(slope * error.square(), weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """values [..., B], weight [B]: mean over all entries."""
    return (values * weight).sum() / (weight.sum() * (values.numel() / weight.numel())).clamp_min(1e-12)
