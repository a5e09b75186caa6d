"""LeRobot's multi-task diffusion transformer: CLIP's images and text become one vector, once; both objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..flow import Guide
from ..types import Features
from .lerobot_diffusion import denoise, stacked
from .lerobot_flow import integrate

HISTORY = True
BLANK_CAMERAS = False
PRIVATE = {
    "observation_encoder.encode": ("batch",),
    "noise_predictor.forward": ("x", "timestep", "conditioning_vec"),
    "objective.horizon": (),
}


def horizon(config: Any) -> int:
    return config.n_action_steps


def encode(policy: Any, batch: dict[str, Any]) -> Features:
    return Features(policy.observation_encoder.encode(stacked(policy.config, batch)))


def sample(policy: Any, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    config, objective = policy.config, policy.objective
    condition = context.repeat(noise.shape[1]).value

    def network(x: Tensor, t: Tensor) -> Tensor:
        return policy.noise_predictor(x, t, conditioning_vec=condition)

    if config.is_diffusion:
        scheduler, evaluations = objective.noise_scheduler, objective.num_inference_steps
        return denoise(network, scheduler, evaluations, config, noise, prefix, guide)

    def euler(x: Tensor, t: float) -> Tensor:
        return network(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))

    # Runge-Kutta: the mean of four velocities over a step; the flow goes from noise at 0 to data at 1, as ours
    def rk4(x: Tensor, t: float) -> Tensor:
        dt = 1 / config.num_integration_steps
        k1 = euler(x, t)
        k2 = euler(x + dt / 2 * k1, t + dt / 2)
        k3 = euler(x + dt / 2 * k2, t + dt / 2)
        return (k1 + 2 * k2 + 2 * k3 + euler(x + dt * k3, t + dt)) / 6

    velocity, size = {"euler": euler, "rk4": rk4}[config.integration_method], (config.horizon, noise.shape[3])
    return integrate(velocity, noise, size, config.num_integration_steps, prefix, guide, config.n_obs_steps - 1)
