"""Seeds judged before they are denoised: FASTER (Dong et al. 2026, arXiv 2604.19730).

    z_(1..n) = the n seeds of largest Q_z(s, z) among n * pool,  chunks = policy(s, z_(i))

Only the chosen seeds are denoised, so that a pool of any size costs n chunks. The critic must judge noise
(critics/noise_critic.py, faster.py, hume.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..proposal import Request
from ._slots import best, judge_noise, open_slots, take


@dataclass(frozen=True)
class Config:
    pool: int = 8  # seeds judged for every one that is denoised; FASTER judges 8 and denoises 1

    def build(self) -> Seeds:
        if self.pool < 1:
            raise ValueError(f"pool: expected at least 1 seed per candidate, got {self.pool}")
        return Seeds(self.pool)


@dataclass(frozen=True)
class Seeds:
    pool: int
    uses_critic: ClassVar[bool] = True
    anytime: ClassVar[bool] = False

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(open_slots(request))
        plain = request.noise()[:, : request.n - n]
        seeds = request.noise(n * self.pool, "pool")
        if n and self.pool > 1:
            seeds = take(seeds, best(judge_noise(request, seeds), n))
        return request.sample(torch.cat([plain, seeds], 1))
