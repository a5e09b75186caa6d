"""Explicit geometric regularization (VGAS, Xu et al. 2026, arXiv 2602.07399): value falls with distance from the data.

With few demonstrations nothing says that a near miss is worse than the recorded chunk; these two terms do.
"""

from __future__ import annotations

from torch import Tensor


# d = sqrt(1/k sum_steps |a~_t - a_t|^2)
def distance(chunk: Tensor, others: Tensor) -> Tensor:
    """chunk [B, k, A] and others [B, n, k, A], normalized -> [B, n]."""
    per_step = (others - chunk[:, None]).square().sum(-1)
    return per_step.mean(-1).clamp_min(1e-12).sqrt()


# L = [Q(s, a~) - (y - slope d)]_+^2: at most what the recorded chunk is worth, less a margin that grows with distance
def margin(q_other: Tensor, target: Tensor, distances: Tensor, slope: float) -> Tensor:
    """q_other [E, B, n], target y [B] of the recorded chunk, distances [B, n] -> [E, B]."""
    ceiling = target.detach()[:, None] - slope * distances
    return (q_other - ceiling).clamp_min(0).square().mean(-1)


# L = mean_{i, j} (Q_i - Q_j - slope (d_j - d_i))^2: of two chunks off the data the nearer one is worth more
def rank(q_other: Tensor, distances: Tensor, slope: float) -> Tensor:
    """q_other [E, B, n], distances [B, n] -> [E, B]. The mean over pairs is twice the variance of Q + slope d."""
    return 2 * (q_other + slope * distances).var(-1, correction=0)
