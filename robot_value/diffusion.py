"""Denoising diffusion with diffusers' schedules: loss inputs and the DDIM sampler (Song et al. 2021) as pure functions.

With eta = 0 the sampler is deterministic: the given noise decides everything. Model units, where noise is N(0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .flow import Guide, prune_and_resample, renoise
from .types import Steering

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

PREDICTIONS = ("epsilon", "sample")

Predict = Callable[[Tensor, int], Tensor]  # (x [B, N, H, A], timestep) -> epsilon or clean chunk, same shape


def make_scheduler(train_steps: int, schedule: str) -> DDIMScheduler:
    """DDIM over `train_steps` noise levels. `ddim` hands it the predicted clean chunk in every case."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=train_steps,
        beta_schedule=schedule,
        prediction_type="sample",
        timestep_spacing="trailing",  # starts at pure noise however few steps there are
        clip_sample=False,
        set_alpha_to_one=True,
    )


def alphas_bar(scheduler: DDIMScheduler, timestep: Tensor) -> Tensor:
    """Signal's share of the variance, [rows, 1, 1], for timesteps int64[rows]."""
    return scheduler.alphas_cumprod.to(timestep.device)[timestep][:, None, None]


# x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps
def add_noise(data: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt() * data + (1 - alpha_bar).sqrt() * noise


# x_hat = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
def clean_from_epsilon(x: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    return (x - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()


def ddim(
    predict: Predict,
    noise: Tensor,
    scheduler: DDIMScheduler,
    steps: int,
    prediction: str,
    clip: float | None = None,
    guide: Guide | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """noise [B, N, H, A] -> clean chunks in `steps` steps.

    clip: largest |x_hat|, what the data's normalisation promises. guide: called with x_hat and t from 0 (noise) to 1;
    what it adds moves x_hat by the noise level sqrt(1 - abar), as 1 - t does in the flow. prefix [B, p, A]: the leading
    steps of every x_hat are replaced by it, so that the path of these steps ends there.
    """
    train_steps = len(scheduler.alphas_cumprod)
    if not 1 <= steps <= train_steps or train_steps % steps:
        raise ValueError(f"diffusion sampler: expected a number of steps that divides {train_steps}, got {steps}")
    scheduler.set_timesteps(steps)
    x = noise
    for timestep in scheduler.timesteps.tolist():
        alpha_bar = scheduler.alphas_cumprod[timestep]
        out = predict(x, timestep)
        x_hat = clean_from_epsilon(x, out, alpha_bar) if prediction == "epsilon" else out
        x_hat = x_hat if clip is None else x_hat.clamp(-clip, clip)
        steering = None if guide is None else guide(x_hat, 1 - (timestep + 1) / train_steps)
        if steering is not None:
            x_hat = _push(x_hat, (1 - alpha_bar).sqrt(), steering)
        if prefix is not None and prefix.shape[1]:
            known = prefix[:, None].expand(-1, x.shape[1], -1, -1)
            x_hat = torch.cat([known, x_hat[:, :, prefix.shape[1] :]], 2)
        z_hat = (x - alpha_bar.sqrt() * x_hat) / (1 - alpha_bar).sqrt()
        x = scheduler.step(x_hat, timestep, x, eta=0.0).prev_sample
        if steering is not None:
            after = timestep - train_steps // steps
            sigma = (1 - scheduler.alphas_cumprod[after]).sqrt() if after >= 0 else 0.0
            x, z_hat = prune_and_resample(steering, x, z_hat)
            x = renoise(x, z_hat, sigma, steering)
    return x


def _push(x_hat: Tensor, sigma: Tensor, steering: Steering) -> Tensor:
    if steering.pull_back:
        raise ValueError("guide: expected one that works without pulling back, got realtime; use a flow policy with it")
    for part in (steering.gradient, steering.displacement):
        x_hat = x_hat if part is None else x_hat + sigma * part
    return x_hat
