"""A return distribution whose tails are learned (generalised Gaussian errors, Kim et al. 2024, arXiv 2408.02295).

    L = omega (E[y] - mu)^2 / (2 (sigma^2 + eps omega)) + omega NLL(sigma, beta)
    NLL = (|y - mu| / alpha)^beta + log(2 alpha G(1/beta) / beta),  sigma^2 = alpha^2 G(3/beta) / G(1/beta)

beta = 1 is Laplace, 2 normal, large uniform. mu keeps the loss it has in `gaussian`: where returns are skewed, as a
rare success is, the NLL's best mu is not the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import Distribution
from .gaussian import clipped_error, deviation, mean_loss, omega, weighed
from .protocol import Net

LEAST, MOST = 0.5, 8.0  # beta; outside, the likelihood is too steep to learn from
START = -1.386  # a network's output 0 means beta = 2, the normal distribution
SPAN = 5.0  # sigmas to either side that atoms are read out at


class GeneralizedGaussian:
    extra, outputs = 0, 3

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return net(x)[..., 0]

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        mean, sigma, beta = self.read(net(x))
        t = torch.linspace(-SPAN, SPAN, self.levels, device=x.device)
        log_density = -((t.abs() / relative_scale(beta)[..., None]) ** beta[..., None])
        return weighed(mean, sigma, t, log_density)

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, sigma, beta = self.read(net(x))  # [E, rows]
        error = clipped_error(mean, sigma, target).abs().clamp_min(1e-6)  # 0^beta has no slope in beta
        nll = (negative_log_density(error, sigma[..., None], beta[..., None]) * target.weights).sum(-1)
        return mean, mean_loss(mean, sigma, target) + omega(sigma) * nll

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[E, rows, 3] -> mu, sigma, beta [E, rows]."""
        mean, raw, shape = outputs.unbind(-1)
        return mean, deviation(raw), LEAST + (MOST - LEAST) * torch.sigmoid(shape + START)


# alpha / sigma = sqrt(G(1/beta) / G(3/beta))
def relative_scale(beta: Tensor) -> Tensor:
    return ((torch.lgamma(1 / beta) - torch.lgamma(3 / beta)) / 2).exp()


def negative_log_density(error: Tensor, sigma: Tensor, beta: Tensor) -> Tensor:
    alpha = sigma * relative_scale(beta)
    return (error / alpha) ** beta + (2 * alpha / beta).log() + torch.lgamma(1 / beta)
