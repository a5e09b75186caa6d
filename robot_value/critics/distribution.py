"""A value as a distribution: weighted atoms. A scalar is one atom, quantiles are equal weights, C51 a fixed support."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distribution:
    atoms: Tensor  # float32[..., K], in the unit of returns
    weights: Tensor  # float32[..., K], sums to 1 over K

    @classmethod
    def point(cls, value: Tensor) -> Distribution:
        """All mass on value [...]."""
        return cls(value[..., None], torch.ones_like(value)[..., None])

    @classmethod
    def samples(cls, atoms: Tensor) -> Distribution:
        """Equally likely atoms [..., K]."""
        return cls(atoms, torch.full_like(atoms, 1 / atoms.shape[-1]))

    @property
    def mean(self) -> Tensor:
        """[...]"""
        return (self.atoms * self.weights).sum(-1)

    # Z(s, a) = R + b Z(s', a'), b = gamma^k or 0 where the episode terminated
    def backed_up(self, returns: Tensor, bootstrap: Tensor) -> Distribution:
        """returns, bootstrap [...]: the distribution one backup earlier."""
        return Distribution(returns[..., None] + bootstrap[..., None] * self.atoms, self.weights)

    def detach(self) -> Distribution:
        return Distribution(self.atoms.detach(), self.weights.detach())
