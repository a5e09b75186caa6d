"""What a guide asks the critic: the value of predicted clean chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..proposal import Request, clip


def inside(request: Request, x_hat: Tensor) -> Tensor:
    """x_hat [B, N, H, A] as a critic may see it: within the limits, zeros where a candidate is not finite."""
    return clip(torch.where(finite(x_hat)[:, :, None, None], x_hat, 0.0), request.policy.spec)


def finite(x_hat: Tensor) -> Tensor:
    """bool[B, N]."""
    return x_hat.isfinite().all(3).all(2)


def value(request: Request, chunks: Tensor) -> Tensor:
    """float32[B, N] of finite chunks [B, N, H, A]; differentiable in them."""
    lengths = torch.full(chunks.shape[:2], chunks.shape[2], dtype=torch.int64, device=chunks.device)
    return request.critic.score(request.critic_context, chunks, lengths).value


def judged(request: Request, x_hat: Tensor) -> Tensor:
    """float32[B, N], -inf where a candidate is not finite or the critic's answer is not."""
    score = value(request, inside(request, x_hat))
    return torch.where(finite(x_hat) & score.isfinite(), score, -torch.inf)
