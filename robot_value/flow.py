"""Flow matching on the optimal-transport path (Lipman et al. 2023): path, loss and samplers as pure functions.

Time runs from noise (t = 0) to data (t = 1). Everything here is in the model's own units, where noise is N(0, 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ranks import shared
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
    return (square * mask).sum() / shared(mask.sum() * error.shape[-1]).clamp_min(1e-12)


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


# t = s + (1 - s) u, dx/du = (1 - s) v(x, t): the rest of a flow is a flow over u in [0, 1]
def from_time(start: Tensor, velocity: Callable[[Tensor, Tensor], Tensor]) -> Velocity:
    """The velocity that carries each x [B, N, H, A] from its own time `start` [B, N] to data; it is asked at t [B, N].

    Samplers step through u, so that their steps are (1 - start) / steps wide; x_hat and a held prefix stay right.
    """
    left = (1 - start)[:, :, None, None]
    return lambda x, u: left * velocity(x, start + (1 - start) * u)


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
        t, after = i / steps, (i + 1) / steps
        v = average_velocity(x, t, dt)
        if guide is not None:
            steering = guide(x + (1 - t) * v, t)  # x_hat = x + (1 - t) v
            v = push(v, steering, lambda x, t=t: x + (1 - t) * average_velocity(x, t, dt), x)
            z_hat = x - t * v
        x = hold(x + dt * v, prefix, noise, after)
        if guide is not None:
            x, noise, z_hat = prune_and_resample(steering, x, noise, z_hat)
            x = hold(renoise(x, z_hat, 1 - after, steering), prefix, noise, after)
    return x


def push(v: Tensor, steering: Steering, x_hat: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The velocity v [B, N, H, A] at x plus what a guide adds: its gradient, and its displacement d or J^T d."""
    if steering.gradient is not None:
        v = v + steering.gradient
    if steering.displacement is None:
        return v
    if not steering.pull_back:
        return v + steering.displacement
    with torch.enable_grad():  # one more call of the network, this time with a graph
        x = x.detach().requires_grad_()
        return v + torch.autograd.grad(x_hat(x), x, steering.displacement)[0]


# Inpainting: the first p steps follow their own known path, x_t[:p] = (1 - t) z[:p] + t prefix
def hold(x: Tensor, prefix: Tensor | None, noise: Tensor, t: float) -> Tensor:
    """x [B, N, H, A] with the leading steps put where a chunk that starts with prefix [B, p, A] has them at time t."""
    if prefix is None or prefix.shape[1] == 0:
        return x
    p = prefix.shape[1]
    known = (1 - t) * noise[:, :, :p] + t * prefix[:, None]
    return torch.cat([known, x[:, :, p:]], 2)


def prune_and_resample(steering: Steering, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Dropped candidates become NaN, which nothing ever selects; then each slot continues its parent's particle."""
    if steering.keep is not None:
        x = torch.where(steering.keep[:, :, None, None], x, torch.nan)
    if steering.resample is None:
        return x, *others
    parents = steering.resample[:, :, None, None].expand_as(x)
    return tuple(each.gather(1, parents) for each in (x, *others))


# x <- x + sigma ((sqrt(1 - churn^2) - 1) z_hat + churn z): part of the noise sigma z_hat inside x is drawn anew.
# To first order in churn^2 a Langevin step, as the score of x is -z_hat / sigma: the law of x_t stays what it is.
def renoise(x: Tensor, z_hat: Tensor, sigma: float | Tensor, steering: Steering) -> Tensor:
    """x, z_hat [B, N, H, A]; copies of one particle become different ones."""
    if steering.noise is None:
        return x
    churn = steering.churn[:, :, None, None]
    return x + sigma * (((1 - churn.square()).sqrt() - 1) * z_hat + churn * steering.noise)
