"""A Gaussian fitted to a few samples and drawn from often: RoboMonkey (Kwok et al. 2025, arXiv 2506.17811).

    mu, sigma^2 = mean and variance over m samples, per step and dim     a_i = mu + sigma eps_i,  eps_i ~ N(0, 1)

Many candidates for the price of m. A gripper is no Gaussian: every candidate takes the samples' majority vote, step by
step (their median, which of two commands is the majority's; the lower one in a tie).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Spec
from ..proposal import Request
from ..rotations import align_signs, to_rotations
from ._slots import open_slots, with_committed


@dataclass(frozen=True)
class Config:
    samples: int = 5  # m, chunks asked of the policy; RoboMonkey 5 to 9
    scale: float = 1.0  # multiplies sigma; 1 is the fit

    def build(self) -> Gaussian:
        if self.samples < 2 or not 0 <= self.scale < float("inf"):
            raise ValueError(f"gaussian: expected samples >= 2 and scale >= 0, got {self.samples} and {self.scale}")
        return Gaussian(self)


class Gaussian:
    uses_critic, anytime = False, False

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, request: Request) -> tuple[Tensor, Tensor]:
        n = len(open_slots(request))
        sampled, lengths = request.sample(request.noise(self.config.samples if n else 1))
        mean, deviation = fit(sampled, request.policy.spec)
        drawn = mean + self.config.scale * deviation * request.noise(n, "gaussian")
        shortest = lengths.masked_fill(~_finite(sampled), sampled.shape[2]).amin(1, keepdim=True)
        plain = request.n - n
        drawn = with_committed(request, to_rotations(drawn, request.policy.spec))
        chunks = torch.cat([sampled[:, :plain], drawn], 1)
        return chunks, torch.cat([lengths[:, :plain], shortest.expand(-1, n)], 1)


def fit(sampled: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B, 1, H, A] (maximum likelihood) of the finite samples [B, m, H, A]."""
    finite = _finite(sampled)
    sampled = align_signs(sampled, finite.int().argmax(1), spec)
    sampled = torch.where(finite[:, :, None, None], sampled, torch.nan)
    mean = sampled.nanmean(1, keepdim=True)
    deviation = (sampled - mean).square().nanmean(1, keepdim=True).sqrt()
    vote = sampled.nanmedian(1, keepdim=True).values
    gripper = torch.zeros(spec.action_dim, dtype=torch.bool, device=sampled.device)
    for part in spec.parts:
        gripper[part.slice] = part.kind == "gripper"
    return torch.where(gripper, vote, mean), deviation.masked_fill(gripper, 0.0)


def _finite(chunks: Tensor) -> Tensor:
    """bool[B, N]"""
    return chunks.isfinite().flatten(2).all(2)
