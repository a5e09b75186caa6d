"""Regression as classification (HL-Gauss, Farebrother et al. 2024, arXiv 2403.03950): bins and cross-entropy.

    L = -sum_i p_i(y) log softmax(l)_i,  p(y) = N(y, sigma^2) cut into bins          Q = sum_i softmax(l)_i centre_i

It learns a mean, not a distribution: the smear is there for the gradient, and a backup sees the mean alone. The bins
reach 3 sigma past [low, high], so that a value at the edge keeps its mean; targets outside are clipped to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import Distribution, gaussian_bins
from .protocol import Net

TAIL = 3.0  # sigmas of room on either side


class HLGauss:
    extra = 0

    def __init__(self, low: float, high: float, bins: int, sigma: float) -> None:
        """sigma in bin widths."""
        if not 0 < 2 * TAIL * sigma < bins:
            raise ValueError(f"head.sigma: expected more than 0 and less than bins / 6 = {bins / 6:.1f}, got {sigma}")
        self.outputs = bins
        self.low, self.high = low, high
        self.width = (high - low) / (bins - 2 * TAIL * sigma)  # of a bin, in the unit of returns
        self.sigma = sigma * self.width

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return self._expected(net(x))

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return Distribution.point(self.mean(net, x))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = net(x)  # [E, rows, bins]
        smeared = self.probabilities(target.atoms)  # [rows, K, bins]
        p = (smeared * target.weights[..., None]).sum(-2)
        return self._expected(logits), -(p * logits.log_softmax(-1)).sum(-1)

    def probabilities(self, value: Tensor) -> Tensor:
        """value [...] -> [..., bins]."""
        return gaussian_bins(value.clamp(self.low, self.high), self.edges(value.device), self.sigma)

    def edges(self, device: torch.device | None = None) -> Tensor:
        """float32[bins + 1]"""
        reach = TAIL * self.sigma
        return torch.linspace(self.low - reach, self.high + reach, self.outputs + 1, device=device)

    def _expected(self, logits: Tensor) -> Tensor:
        centres = self.edges(logits.device)[:-1] + self.width / 2
        return logits.softmax(-1) @ centres
