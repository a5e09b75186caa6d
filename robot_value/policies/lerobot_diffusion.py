"""LeRobot's DiffusionPolicy (Chi et al. 2023): images and state become one vector, once; the U-Net denoises N chunks.

Its denoising is written out here for two reasons: DDPM draws noise in every step (here from each candidate's own
generator), and a prefix is inpainted.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..flow import Guide
from ..types import Features
from .lerobot_noise import around, generators

HISTORY = True  # observations [B, O, ...], not the newest alone
BLANK_CAMERAS = False
PRIVATE = {
    "diffusion._prepare_global_conditioning": ("batch",),
    "diffusion.unet.forward": ("x", "timestep", "global_cond"),
    "diffusion.noise_scheduler.step": ("model_output", "timestep", "sample", "generator"),
    "diffusion.num_inference_steps": (),
}


def horizon(config: Any) -> int:
    return config.n_action_steps


def encode(policy: Any, batch: dict[str, Any]) -> Features:
    return Features(policy.diffusion._prepare_global_conditioning(stacked(policy.config, batch)))


def sample(policy: Any, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    model, condition = policy.diffusion, context.repeat(noise.shape[1]).value

    def network(x: Tensor, t: Tensor) -> Tensor:
        return model.unet(x, t, global_cond=condition)

    return denoise(network, model.noise_scheduler, model.num_inference_steps, policy.config, noise, prefix, guide)


def stacked(config: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with all cameras in one tensor [B, O, cameras, 3, h, w], as models with a history want it."""
    if not config.image_features:
        return batch
    return batch | {"observation.images": torch.stack([batch[key] for key in config.image_features], dim=-4)}


def denoise(
    network: Callable[[Tensor, Tensor], Tensor],  # (x [rows, steps, A], timestep int64[rows]) -> what it predicts
    scheduler: Any,  # diffusers' DDPM or DDIM
    evaluations: int,  # denoising steps
    config: Any,
    noise: Tensor,  # [B, n, H, A]
    prefix: Tensor | None,  # [B, p, A], model units
    guide: Guide | None,
) -> Tensor:
    """Chunks [B, n, H, A]; the network's steps begin in the past, at the oldest observation."""
    if guide is not None:
        raise ValueError(
            "guide: expected none with a LeRobot diffusion model; use one that matches flows (smolvla, pi0)"
        )
    (n, horizon, action_dim), start = noise.shape[1:], config.n_obs_steps - 1
    first = around(noise, config.horizon, action_dim, start).flatten(0, 1)
    known = None if prefix is None else prefix.repeat_interleave(n, 0)
    x, own = first, generators(noise)
    scheduler.set_timesteps(evaluations)
    for t, after in pairwise([*scheduler.timesteps, None]):
        out = network(x, torch.full((len(x),), int(t), dtype=torch.long, device=x.device))
        x = scheduler.step(out, t, x, generator=own).prev_sample
        if known is not None:  # x_t = sqrt(abar_t) prefix + sqrt(1 - abar_t) z, and the prefix itself at the end
            part = slice(start, start + known.shape[1])
            path = known if after is None else scheduler.add_noise(known, first[:, part], after.expand(len(x)))
            x = torch.cat([x[:, :start], path, x[:, part.stop :]], 1)
    return x[:, start : start + horizon].unflatten(0, (-1, n))
