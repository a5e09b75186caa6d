"""A value as a distribution: weighted atoms. A scalar is one atom, quantiles are equal weights, C51 a fixed support.

Below it, the ways one kind of atoms becomes another, as pure functions.
"""

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

    @property
    def variance(self) -> Tensor:
        """[...]"""
        return ((self.atoms - self.mean[..., None]).square() * self.weights).sum(-1)

    # Z(s, a) = R + b Z(s', a'), b = gamma^k or 0 where the episode terminated
    def backed_up(self, returns: Tensor, bootstrap: Tensor) -> Distribution:
        """returns, bootstrap [...]: the distribution one backup earlier."""
        return Distribution(returns[..., None] + bootstrap[..., None] * self.atoms, self.weights)

    def detach(self) -> Distribution:
        return Distribution(self.atoms.detach(), self.weights.detach())


# C51 (Bellemare et al. 2017, eq. 7): m_i = sum_k w_k [1 - |clip(y_k, z_1, z_n) - z_i| / dz], negative brackets are 0
def project(distribution: Distribution, support: Tensor) -> Tensor:
    """atoms [..., K], each shared out to its two neighbours on an even grid [n] -> weights [..., n]."""
    apart = (distribution.atoms.clamp(support[0], support[-1])[..., None] - support).abs()  # [..., K, n]
    share = (1 - apart / (support[1] - support[0])).clamp_min(0)
    return (share * distribution.weights[..., None]).sum(-2)


# HL-Gauss (Farebrother et al. 2024, eq. 3): p_i = [Phi((e_{i+1} - y) / s) - Phi((e_i - y) / s)] / sum_j [...]_j
def gaussian_bins(value: Tensor, edges: Tensor, sigma: float | Tensor) -> Tensor:
    """value [...] smeared over the bins between edges [n + 1] -> probabilities [..., n]."""
    below = torch.special.ndtr((edges - value[..., None]) / sigma)
    mass = below.diff(dim=-1)
    return mass / mass.sum(-1, keepdim=True)


# tau_i = (i - 1/2) / n: where n equal quantiles are nearest to the whole (Dabney et al. 2018, lemma 2)
def midpoints(n: int, device: torch.device | None = None) -> Tensor:
    """float32[n] in (0, 1)."""
    return (torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n
