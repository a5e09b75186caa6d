"""A normal return distribution, its mean weighed by its variance (DSAC-T, Duan et al. 2025, arXiv 2310.05858).

    L = omega [ (E[y] - mu)^2 / (2 (sigma^2 + eps omega)) + log sigma + sum_k w_k clip(y_k - mu, b)^2 / (2 sigma^2) ]

The mean learns from E[y] (expected value substitution), sigma from the atoms within b = 3 max(sigma, mean sigma) of
the mean; each takes the other as given. omega = mean sigma^2 of the batch keeps the gradients of all rows in
proportion. Two changes to DSAC-T: eps is a share of omega, not 0.1, so that the rewards' scale does not matter; and b
is never under a row's own 3 sigma, or the one state in ten whose return varies would have its variance cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distribution import Distribution
from .protocol import Net

CLIP = 3.0  # sigmas, DSAC-T
EPSILON = 0.1  # of omega: the most certain row weighs at most 10 times the average
FLOOR = 1e-3  # least sigma, in the unit of returns
SPAN = 4.0  # sigmas to either side that atoms are read out at


class Gaussian:
    extra, outputs = 0, 2

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return net(x)[..., 0]

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        mean, raw = net(x).unbind(-1)
        t = torch.linspace(-SPAN, SPAN, self.levels, device=x.device)
        return weighed(mean, deviation(raw), t, (-t.square() / 2).expand(*mean.shape, -1))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, raw = net(x).unbind(-1)  # [E, rows]
        sigma = deviation(raw)
        error = clipped_error(mean, sigma, target)
        square = (error.square() * target.weights).sum(-1)
        nll = sigma.log() + square / (2 * sigma.square())
        return mean, mean_loss(mean, sigma, target) + omega(sigma) * nll


def deviation(raw: Tensor) -> Tensor:
    """A network's output -> sigma."""
    return F.softplus(raw) + FLOOR


def omega(sigma: Tensor) -> Tensor:
    """sigma [E, rows] -> the batch's mean variance [E, 1], a given number."""
    return sigma.detach().square().mean(-1, keepdim=True)


# omega (E[y] - mu)^2 / (2 (sigma^2 + eps omega))
def mean_loss(mean: Tensor, sigma: Tensor, target: Distribution) -> Tensor:
    """[E, rows]"""
    scale = omega(sigma)
    return scale * (target.mean - mean).square() / (2 * (sigma.detach().square() + EPSILON * scale))


def clipped_error(mean: Tensor, sigma: Tensor, target: Distribution) -> Tensor:
    """y_k - mu within b [E, rows, K]; moves neither the mean nor b."""
    fixed = sigma.detach()
    reach = CLIP * torch.maximum(fixed, fixed.mean(-1, keepdim=True))[..., None]
    return (target.atoms - mean.detach()[..., None]).clamp(-reach, reach)


def weighed(mean: Tensor, sigma: Tensor, t: Tensor, log_density: Tensor) -> Distribution:
    """Atoms mean + sigma t [..., K] with weights in proportion to the density there."""
    return Distribution(mean[..., None] + sigma[..., None] * t, log_density.softmax(-1))
