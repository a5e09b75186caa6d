"""Real-time chunking (RTC, arXiv 2506.07339): a new chunk that goes on from the plan in force, by soft inpainting.

    v <- v + min(beta, (1 - t) / t * (t^2 + (1 - t)^2) / (1 - t)^2) J^T W (previous - x_hat),   J = d x_hat / d x
    W_i = 1 for i < d,   c (e^c - 1) / (e - 1) with c = (H - s - i) / (H - s - d + 1) for d <= i < H - s,   else 0

d: steps already committed. s: steps executed per decision, so that H - s steps of the previous plan are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Steering
from ..proposal import Request


@dataclass(frozen=True)
class Config:
    beta: float = 5.0  # largest guidance weight, per flow time; the paper's, below the number of sampler steps

    def build(self) -> Realtime:
        return Realtime(self.beta)


@dataclass(frozen=True)
class Realtime:
    beta: float
    uses_critic = False

    def begin(self, request: Request) -> Callable[[Tensor, float], Steering]:
        if request.previous is None:
            return lambda x_hat, t: Steering()
        known = request.previous.isfinite().all(2)  # bool[B, H]
        previous = torch.where(known[:, :, None], request.previous, 0.0)[:, None]  # [B, 1, H, A]
        committed = torch.from_numpy(request.observation.committed).to(known.device)
        weight = (decay(committed, known.shape[1], request.execute) * known)[:, None, :, None]  # [B, 1, H, 1]

        def steer(x_hat: Tensor, t: float) -> Steering:
            wish = strength(t, self.beta) * weight * (previous - x_hat)
            return Steering(displacement=wish, pull_back=True)

        return steer


def strength(t: float, beta: float) -> float:
    return beta if t == 0 else min(beta, (t**2 + (1 - t) ** 2) / (t * (1 - t)))


def decay(committed: Tensor, horizon: int, execute: int) -> Tensor:
    """W float32[B, H] of committed int64[B]."""
    step, d = torch.arange(horizon, device=committed.device), committed[:, None]
    left = horizon - execute
    c = (left - step) / (left - d + 1).clamp_min(1)
    soft = c * torch.expm1(c) / (math.e - 1)
    return torch.where(step < d, 1.0, torch.where(step < left, soft, 0.0))
