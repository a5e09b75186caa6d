"""A categorical return distribution on a fixed grid (C51, Bellemare et al. 2017, arXiv 1707.06887).

    L = -sum_i m_i log softmax(l)_i,  m = the target's atoms projected onto the grid         Q = sum_i softmax(l)_i z_i

Targets outside [low, high] are clipped to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import Distribution, project
from .protocol import Net


class C51:
    extra = 0

    def __init__(self, low: float, high: float, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"head.bins: expected at least 2, got {bins}")
        self.outputs, self.low, self.high = bins, low, high

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return self.distribution(net, x).mean

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return self._read(net(x))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = net(x)  # [E, rows, bins]
        projected = project(target, self.support(logits.device))  # [rows, bins]
        return self._read(logits).mean, -(projected * logits.log_softmax(-1)).sum(-1)

    def support(self, device: torch.device | None = None) -> Tensor:
        """z float32[bins]"""
        return torch.linspace(self.low, self.high, self.outputs, device=device)

    def _read(self, logits: Tensor) -> Distribution:
        return Distribution(self.support(logits.device).expand_as(logits), logits.softmax(-1))
