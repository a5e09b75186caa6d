"""Quantiles of the return at fixed mid-point levels (QR-DQN, Dabney et al. 2018, arXiv 1710.10044).

    L = mean_i sum_k w_k rho_{tau_i}(y_k - q_i)     rho_tau(u) = |tau - 1(u < 0)| H(u),  H the Huber loss over kappa

Q = mean_i q_i. No bounds are needed. On a return that is 0 or 1, N levels tell the mean to within 1 / 2N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import Distribution, midpoints
from .protocol import Net


class Quantile:
    extra = 0

    def __init__(self, levels: int, huber: float) -> None:
        self.outputs, self.huber = levels, huber

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return net(x).mean(-1)

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.samples(net(x))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        q = net(x)  # [E, rows, N]
        return q.mean(-1), quantile_loss(q, midpoints(self.outputs, q.device), target, self.huber)


# H(u) = |u| - kappa / 2 beyond kappa, u^2 / (2 kappa) within; kappa = 0 is the plain quantile loss
def quantile_loss(q: Tensor, levels: Tensor, target: Distribution, huber: float) -> Tensor:
    """q [E, rows, N] at levels [N] or [rows, N] against atoms [rows, K] -> [E, rows]."""
    error = target.atoms[:, None] - q[..., None]  # [E, rows, N, K]
    size = error.abs()
    if huber:
        size = torch.where(size < huber, error.square() / (2 * huber), size - huber / 2)
    slope = (levels[..., None] - (error < 0).to(error)).abs()
    return (slope * size * target.weights[:, None]).sum(-1).mean(-1)
