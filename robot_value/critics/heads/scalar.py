"""One number per value, squared error: (Q - E[y])^2."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import Distribution
from .protocol import Net


class Scalar:
    extra, outputs = 0, 1

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return net(x).squeeze(-1)

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.point(self.mean(net, x))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mean = self.mean(net, x)
        return mean, (mean - target.mean).square()
