"""Flow matching on the optimal-transport path (Lipman et al. 2023): path, loss and samplers as pure functions.

Time runs from noise (t = 0) to data (t = 1). Everything here is in the model's own units, where noise is N(0, 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .types import Steering

Velocity = Callable[[Tensor, float], Tensor]  # (x [B, N, H, A], t) -> dx/dt, same shape
Guide = Callable[[Tensor, float], Steering]  # (x_hat [B, N, H, A], t) -> Steering


# x_t = (1 - t) z + t x
def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """noise, data [rows, H, A], t [rows]."""
    t = t[:, None, None]
    return (1 - t) * noise + t * data


# d x_t / dt = x - z
def velocity_target(noise: Tensor, data: Tensor) -> Tensor:
    return data - noise


# L = mean over valid steps of | v(x_t, t) - (x - z) |^2
def masked_square(error: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """error [rows, H, A], valid bool[rows, H], weight [rows]: weighted mean square per action number, 0 if none."""
    mask = valid * weight[:, None]  # [rows, H]
    square = torch.where(valid[..., None], error, 0).square().sum(-1)
    return (square * mask).sum() / (mask.sum() * error.shape[-1]).clamp_min(1e-12)


# Euler: x <- x + dt v(x, t)
def euler(
    velocity: Velocity, noise: Tensor, steps: int, guide: Guide | None = None, prefix: Tensor | None = None
) -> Tensor:
    """noise [B, N, H, A] at t = 0 -> chunks at t = 1, in `steps` equal steps."""
    return _integrate(lambda x, t, dt: velocity(x, t), noise, steps, guide, prefix)


# midpoint: x <- x + dt v(x + dt/2 v(x, t), t + dt/2)
def midpoint(
    velocity: Velocity, noise: Tensor, steps: int, guide: Guide | None = None, prefix: Tensor | None = None
) -> Tensor:
    """As `euler`, second order: two evaluations per step."""
    return _integrate(lambda x, t, dt: velocity(x + dt / 2 * velocity(x, t), t + dt / 2), noise, steps, guide, prefix)


SAMPLERS = {"euler": euler, "midpoint": midpoint}


def _integrate(
    average_velocity: Callable[[Tensor, float, float], Tensor],
    noise: Tensor,
    steps: int,
    guide: Guide | None,
    prefix: Tensor | None,
) -> Tensor:
    if steps < 1:
        raise ValueError(f"flow sampler: expected at least 1 step, got {steps}")
    x, dt = noise, 1 / steps
    x = hold(x, prefix, noise, 0.0)
    for i in range(steps):
        t = i / steps
        v = average_velocity(x, t, dt)
        steering = None if guide is None else guide(x + (1 - t) * v, t)  # x_hat = x + (1 - t) v
        if steering is not None and steering.gradient is not None:
            v = v + steering.gradient
        x = hold(x + dt * v, prefix, noise, (i + 1) / steps)
        if steering is not None:
            x, noise = prune_and_resample(x, noise, steering)
    return x


# Inpainting: the first p steps follow their own known path, x_t[:p] = (1 - t) z[:p] + t prefix
def hold(x: Tensor, prefix: Tensor | None, noise: Tensor, t: float) -> Tensor:
    """x [B, N, H, A] with the leading steps put where a chunk that starts with prefix [B, p, A] has them at time t."""
    if prefix is None or prefix.shape[1] == 0:
        return x
    p = prefix.shape[1]
    known = (1 - t) * noise[:, :, :p] + t * prefix[:, None]
    return torch.cat([known, x[:, :, p:]], 2)


def prune_and_resample(x: Tensor, noise: Tensor, steering: Steering) -> tuple[Tensor, Tensor]:
    """Dropped candidates become NaN, which nothing ever selects; then each slot continues its parent's particle."""
    if steering.keep is not None:
        x = torch.where(steering.keep[:, :, None, None], x, torch.nan)
    if steering.resample is not None:
        parents = steering.resample[:, :, None, None].expand_as(x)
        x, noise = x.gather(1, parents), noise.gather(1, parents)
    return x, noise
