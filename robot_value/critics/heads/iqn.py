"""Quantiles at any level, the level being an input (IQN, Dabney et al. 2018, arXiv 1806.06923).

    L = mean_i sum_k w_k rho_{tau_i}(y_k - q(x, tau_i)),  tau_i ~ U[0, 1]        Q = mean over fixed mid-point levels

The level enters as cos(pi j tau), j = 1..n, beside what is judged. Every level is one pass of the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...networks.seeding import uniform
from ..distribution import Distribution, midpoints
from .protocol import Net
from .quantile import quantile_loss


class IQN:
    outputs = 1

    def __init__(self, draws: int, cosines: int, huber: float) -> None:
        self.draws, self.extra, self.huber = draws, cosines, huber

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return self.distribution(net, x).mean

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.samples(self._at(net, x, midpoints(self.draws, x.device).expand(len(x), -1)))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        levels = stratified(len(x), self.draws, x.device, generator)
        q = self._at(net, x, levels)
        return q.mean(-1), quantile_loss(q, levels, target, self.huber)

    def _at(self, net: Net, x: Tensor, levels: Tensor) -> Tensor:
        """levels [rows, N] -> quantiles [E, rows, N]."""
        inputs = torch.cat([x.repeat_interleave(levels.shape[1], 0), cosines(levels.flatten(), self.extra)], -1)
        return net(inputs).squeeze(-1).unflatten(1, levels.shape)


# t_i = (i - 1 + u_i) / n, u_i ~ U[0, 1]: each t_i anywhere in its n-th, all together uniform with less variance
def stratified(rows: int, n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """float32[rows, n] in [0, 1]."""
    return (torch.arange(n, device=device) + uniform((rows, n), device, generator)) / n


# phi_j(t) = cos(pi j t), j = 1..n
def cosines(t: Tensor, n: int) -> Tensor:
    """t [...] in [0, 1] -> [..., n]."""
    return torch.cos(math.pi * t[..., None] * torch.arange(1, n + 1, device=t.device))
