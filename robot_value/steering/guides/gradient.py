"""Steps uphill in value while denoising (QGF, arXiv 2606.11087; Guided Action Flow, arXiv 2607.02092).

v <- v + w dQ/dx_hat,   x_hat = x + (1 - t) v clipped to the limits; the Jacobian d x_hat / d x is dropped

Dims that stood still in the recorded data are left alone (steering/moved.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Steering
from ..moved import ever_moved
from ..proposal import Request
from ._value import finite, inside, value


@dataclass(frozen=True)
class Config:
    weight: float = 0.2  # w; normalized: how far a chunk is pushed over the whole flow, RMS in half action ranges
    normalize: bool = True  # by the gradient's RMS per candidate; False: dQ/dx as published, w in range^2 per value
    start: float = 0.0  # first flow time with a push; QGF pushes all the way
    until: float = 1.0  # flow time from which on nothing is pushed

    def build(self) -> Gradient:
        return Gradient(self)


@dataclass(frozen=True)
class Gradient:
    config: Config
    uses_critic = True

    def begin(self, request: Request) -> Callable[[Tensor, float], Steering]:
        config, spec = self.config, request.policy.spec
        half = torch.from_numpy((spec.high - spec.low) / 2).to(request.device)  # float32[A]
        able = torch.from_numpy(ever_moved(spec, request.policy, request.critic)).to(request.device)  # bool[A]

        def steer(x_hat: Tensor, t: float) -> Steering:
            if not config.start <= t < config.until:
                return Steering()
            g = ascent(request, x_hat) * able
            if not config.normalize:
                return Steering(gradient=config.weight * g)
            return Steering(displacement=config.weight * half * unit(g * half, request.execute))

        return steer


def ascent(request: Request, x_hat: Tensor) -> Tensor:
    """dQ/dx_hat [B, N, H, A], per spec unit; zeros for a candidate whose gradient is not finite."""
    with torch.enable_grad():
        chunks = inside(request, x_hat).detach().requires_grad_()
        g = torch.autograd.grad(value(request, chunks).sum(), chunks)[0]
    return torch.where(finite(g)[:, :, None, None], g, 0.0)


def unit(g: Tensor, execute: int) -> Tensor:
    """g [B, N, H, A] divided by its root mean square over the executed steps of each candidate; zeros stay zeros."""
    rms = g[:, :, :execute].square().mean((2, 3), keepdim=True).sqrt()
    return torch.where(rms > 0, g / rms, 0.0)
