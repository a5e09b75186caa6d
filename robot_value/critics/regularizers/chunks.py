"""Chunks that nobody recorded, and what a network thinks of several chunks per row, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...networks.seeding import uniform

if TYPE_CHECKING:
    from ..chunk_critic import ChunkCritic

Q = Callable[[Tensor, Tensor], Tensor]  # (features [rows, F], chunk [rows, k, A], normalized) -> [E, rows]


def random_chunks(critic: ChunkCritic, rows: int, n: int, generator: torch.Generator | None) -> Tensor:
    """[rows, n, scope, A], normalized, uniform within the spec's limits."""
    low, high = (torch.from_numpy(limit).to(critic.device) for limit in (critic.spec.low, critic.spec.high))
    share = uniform((rows, n, critic.scope, critic.spec.action_dim), critic.device, generator)
    return critic.actions.normalize(low + (high - low) * share)


def judge(q: Q, features: Tensor, chunks: Tensor) -> Tensor:
    """features [B, F], chunks [B, n, k, A] -> [E, B, n], differentiable (candidates.values is for targets)."""
    n = chunks.shape[1]
    return q(features.repeat_interleave(n, 0), chunks.flatten(0, 1)).unflatten(1, (-1, n))
