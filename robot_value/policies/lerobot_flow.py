"""What LeRobot's flow models share: a velocity over more steps and dims than a chunk has, integrated by our sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..flow import Guide, Velocity, euler
from ..types import Steering
from .lerobot_noise import around


def reversed_time(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """openpi's time runs from 1 (noise) to 0 (data): v(x, t) = -denoise(x, 1 - t) for x [rows, steps, dims]."""
    return lambda x, t: -denoise(x, torch.full((len(x),), 1 - t, dtype=torch.float32, device=x.device))


def integrate(
    velocity: Callable[[Tensor, float], Tensor],  # (x [rows, steps, dims], t) -> dx/dt, time from 0 (noise) to 1
    noise: Tensor,  # [B, n, H, A]
    size: tuple[int, int],  # steps and dims that the network denoises
    evaluations: int,  # Euler steps
    prefix: Tensor | None,  # [B, p, A], model units
    guide: Guide | None,  # in model units, over [B, n, H, A]
    start: int = 0,  # the chunk's first step among those of the network
) -> Tensor:
    """Chunks [B, n, H, A] in model units. The sampler has the chunk's steps in front, so that it can hold a prefix."""
    horizon, action_dim = noise.shape[2:]
    known = None if prefix is None else pad(prefix, (0, size[1] - action_dim))  # padded dims are 0 in training

    # What is known goes straight to its end, from wherever it is: v = (prefix - x) / (1 - t), so that x_hat = prefix
    def field(x: Tensor, t: float) -> Tensor:
        v = velocity(x.roll(start, 2).flatten(0, 1), t).view_as(x).roll(-start, 2)
        if known is None:
            return v
        p = known.shape[1]
        return torch.cat([(known[:, None] - x[:, :, :p]) / (1 - t), v[:, :, p:]], 2)

    field: Velocity
    whole = None if guide is None else _on_chunk(guide, noise.shape, size, start)
    x = euler(field, _front(noise, size, start), evaluations, whole, known)
    return x[:, :, :horizon, :action_dim]


def _front(noise: Tensor, size: tuple[int, int], start: int) -> Tensor:
    """Noise [B, n, steps, dims] around a chunk's own, the steps before the chunk moved to the end."""
    return around(noise, *size, start).roll(-start, 2)


def _on_chunk(guide: Guide, shape: torch.Size, size: tuple[int, int], start: int) -> Guide:
    """A guide of chunks [B, n, H, A] as one of all that the network denoises; the rest is left as it is."""
    horizon, action_dim = shape[2:]
    margins = (0, size[1] - action_dim, 0, size[0] - horizon)

    def whole(x_hat: Tensor, t: float) -> Steering:
        given = guide(x_hat[:, :, :horizon, :action_dim], t)
        pushes = {name: getattr(given, name) for name in ("gradient", "displacement")}
        pushes = {name: None if push is None else pad(push, margins) for name, push in pushes.items()}
        noise = None if given.noise is None else _front(given.noise, size, start)
        return replace(given, **pushes, noise=noise)

    return whole
