"""One call of a network instead of a flow's many (FQL, Park et al. 2025, arXiv 2502.02538), pulled towards high values.

    L(mu) = alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z))

Squares are means over a chunk's numbers in the flow's normalized units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..flow import Guide, euler
from ..networks.chunk_head import ChunkMLP
from ..types import Features
from ._chunks import clip, in_spec_units, sample_chunks
from .chunk_actor import ChunkActor, Metrics, row_mean

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


def one_step_head(actor: ChunkActor, width: int, depth: int) -> nn.Module:
    return ChunkMLP(actor.encoder.features, actor.spec.horizon, actor.spec.action_dim, width, depth)


def jump(head: nn.Module, noise: Tensor, condition: Tensor) -> Tensor:
    """mu(s, z): noise [rows, H, A], condition [rows, C] -> chunk [rows, H, A], normalized."""
    return head(noise, torch.zeros(1, device=noise.device), condition)


# mu is a flow of a single Euler step whose velocity is mu(s, z) - z
def act_in_one_step(
    actor: ChunkActor, head: nn.Module, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None
) -> Tensor:
    """Chunks [B, n, H, A] in spec units. A prefix replaces the first steps; a guide sees mu once."""
    base = actor.base
    x = sample_chunks(
        lambda x, t, condition: jump(head, x, condition) - x,
        lambda velocity, noise, guide, prefix: euler(velocity, noise, 1, guide, prefix),
        noise,
        head.condition(context.value),
        None if prefix is None else actor.actions.normalize(prefix.to(noise)),
        in_spec_units(guide, actor.actions),
        base.config.tile,
    )
    return clip(actor.actions.unnormalize(x), base.low, base.high)


def distilled_loss(
    actor: ChunkActor, head: nn.Module, alpha: float, batch: ChunkBatch, generator: torch.Generator | None
) -> tuple[Tensor, Metrics]:
    """The loss above; the flow only teaches, the critic only judges."""
    features, noise = actor.features(batch), actor.draw(batch, generator)
    taught = actor.actions.normalize(actor.teach(features, noise)[:, 0])
    x = jump(head, noise[:, 0], head.condition(features.value))
    distance = row_mean((x - taught).square(), batch.weight)
    chunk = clip(actor.actions.unnormalize(x), actor.base.low, actor.base.high)
    q = row_mean(actor.judge(batch, chunk[:, None], generator), batch.weight)
    return alpha * distance - q, {"distance": distance, "q": q}
