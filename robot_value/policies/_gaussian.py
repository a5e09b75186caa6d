"""Squashed Gaussians and their temperature: the maximum-entropy actor of SAC (Haarnoja et al. 2018).

x = tanh(u), u ~ N(mean, std)      log pi(x) = log N(u; mean, std) - sum log(1 - tanh(u)^2)
L_actor = temperature log pi - Q   L_temperature = temperature (entropy - target)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.mlp import mlp

LOG_STD = -5.0, 2.0  # limits of log std


class SquashedGaussian(nn.Module):
    """inputs [rows, I] and noise [rows, H, A] -> (x [rows, H, A] in (-1, 1), log pi [rows])."""

    def __init__(self, inputs: int, hidden: Sequence[int], horizon: int, action_dim: int) -> None:
        super().__init__()
        self.shape = (2, horizon, action_dim)
        self.net = mlp(inputs, hidden, math.prod(self.shape))

    def forward(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(inputs).unflatten(-1, self.shape).unbind(1)
        log_std = log_std.clamp(*LOG_STD)
        u = mean + log_std.exp() * noise
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log(1 - tanh(u)^2), without cancellation
        return u.tanh(), (log_normal - log_slope).flatten(1).sum(1)


class Temperature(nn.Module):
    """A positive number that falls while the entropy is above its target and rises while it is below."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log.exp()

    def loss(self, log_pi: Tensor, target: float) -> Tensor:
        return self() * (-log_pi.detach().mean() - target)
