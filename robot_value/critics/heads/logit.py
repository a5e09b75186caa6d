"""Returns in [low, high] as the probability of success, binary cross-entropy: what Decoupled Q-chunking trains.

    Q = low + (high - low) sigmoid(l)      L = -p log sigmoid(l) - (1 - p) log(1 - sigmoid(l)),   p = E[unit(y)]

The minimum is at Q = E[y], as with squared error, but small values of a sparse reward are told apart by their ratio.
Targets outside [low, high] are clipped to it. Li et al. 2025, arXiv 2512.10926, with [low, high] = [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distribution import Distribution
from .protocol import Net


class Logit:
    extra, outputs = 0, 1

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def logit(self, net: Net, x: Tensor) -> Tensor:
        """x [rows, inputs] -> l [E, rows]."""
        return net(x).squeeze(-1)

    def value(self, logit: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(logit)

    def unit(self, value: Tensor) -> Tensor:
        """value [...] in the unit of returns -> its place in [low, high], in [0, 1]."""
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return self.value(self.logit(net, x))

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.point(self.mean(net, x))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        logit = self.logit(net, x)
        p = (self.unit(target.atoms) * target.weights).sum(-1).expand_as(logit)
        return self.value(logit), F.binary_cross_entropy_with_logits(logit, p, reduction="none")
