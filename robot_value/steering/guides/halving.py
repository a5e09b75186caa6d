"""Successive halving while denoising: now and then only the better half of the candidates goes on.

Candidates are ranked by the value of their predicted clean chunks x_hat (Jamieson & Talwalkar 2016 for the scheme).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Steering
from ..proposal import Request
from ._value import judged


@dataclass(frozen=True)
class Config:
    times: tuple[float, ...] = (0.2, 0.4, 0.6)  # flow times, each halves once: 32, 16, 8, 4; steps 2, 4, 6 of 10

    def build(self) -> Halving:
        return Halving(tuple(sorted(self.times)))


@dataclass(frozen=True)
class Halving:
    times: tuple[float, ...]
    uses_critic = True

    def begin(self, request: Request) -> Callable[[Tensor, float], Steering]:
        alive: Tensor | None = None  # int64[B, m], who goes on; None: everyone
        done = 0  # halvings so far

        def steer(x_hat: Tensor, t: float) -> Steering:
            nonlocal alive, done
            due = sum(time <= t + 1e-6 for time in self.times)
            batch, n = x_hat.shape[:2]
            m = halved(n, due)
            if due == done or m == halved(n, done):
                return Steering()
            if alive is None:
                alive = torch.arange(n, device=x_hat.device).expand(batch, n)
            alive, done = best(request, x_hat, alive, m), due
            keep = torch.zeros(batch, n, dtype=torch.bool, device=x_hat.device)
            return Steering(keep=keep.scatter(1, alive, True))

        return steer


def halved(n: int, times: int) -> int:
    """n halved and rounded up, `times` over; two at least, candidate 0 and the best of the others."""
    return max(-(-n // 2**times), min(n, 2))


def best(request: Request, x_hat: Tensor, alive: Tensor, m: int) -> Tensor:
    """int64[B, m], the m best of alive [B, M]. Candidate 0, every gate's way back to the policy, keeps its place."""
    rows = torch.arange(len(alive), device=alive.device)[:, None]
    score = judged(request, x_hat[rows, alive]).masked_fill(alive == 0, torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)[:, :m]
    return alive.gather(1, order)
