"""Importance-weighted fine-tuning on selected data: iw-SFT (Qin & Springenberg 2025, arXiv 2507.12856), for flows.

    L = w L_flow(a)      w = clip(pi(a | s) / pi_ref(a | s), 0, max_weight), without gradient

Cloning successes alone bounds what reinforcement learning maximizes from below; weights by how much likelier the policy
now finds a chunk than the reference it started from make the bound tight. Train with --windowing.success_only=true.

The published weight is exp(mean over tokens of log pi - log pi_ref). A flow has no likelihood at hand; as in FPO
(McAllister et al. 2025, arXiv 2507.21053) the difference of the two flow-matching losses stands for it, at the same
noise and time, as a mean over the chunk's numbers and over `draws`:

    log pi - log pi_ref  ~  mean_draws [L_ref(a; z, t) - L_flow(a; z, t)]

Defining term: w; with w = 1 it is supervised fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..flow import Guide, interpolate, velocity_target
from ..networks.seeding import uniform
from ..normalize import Statistics
from ..types import Features, Spec
from . import flow
from .chunk_actor import ChunkActor, Metrics, row_mean

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    base: flow.Config = flow.Config()  # the flow that is trained and its reference; both come from --base=CHECKPOINT
    draws: int = 4  # noises and times per chunk and update, also of the loss; FPO uses 8 and more
    max_weight: float = 16.0  # largest weight; iw-SFT's code

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        return ChunkActor(self, spec, statistics, tasks, act=act, loss=loss, freezes_base=False, keeps_reference=True)


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    return actor.base.sample(context, noise.shape[1], noise, prefix, guide)[0]


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    if not actor.adopted:
        raise ValueError(
            "importance_weighted: expected a trained policy as reference, got random weights; "
            "train with --base=CHECKPOINT of the policy to fine-tune"
        )
    c, noise = actor.config, actor.draw(batch, generator, actor.config.draws)
    t = uniform(noise.shape[:2], noise.device, generator)
    losses = flow_losses(actor.base, batch, noise, t).mean(1)  # [B]
    with torch.no_grad():
        w = weights(flow_losses(actor.reference, batch, noise, t).mean(1) - losses, c.max_weight)
    return row_mean(w * losses, batch.weight), {"flow_loss": losses.mean(), "weight": w.mean()}


# w = clip(exp(log pi - log pi_ref), 0, max_weight)
def weights(log_ratio: Tensor, max_weight: float) -> Tensor:
    return log_ratio.exp().clamp(max=max_weight)


def flow_losses(policy: flow.FlowPolicy, batch: ChunkBatch, noise: Tensor, t: Tensor) -> Tensor:
    """noise [B, n, H, A], t [B, n] -> [B, n]: flow matching of each row, mean square per number of its valid steps."""
    n = noise.shape[1]
    noise, t = noise.flatten(0, 1), t.flatten()
    data = policy.actions.normalize(batch.chunks).repeat_interleave(n, 0)
    condition = policy.head.condition(policy.encoder(batch.observation)).repeat_interleave(n, 0)
    error = policy.head(interpolate(noise, data, t), t, condition) - velocity_target(noise, data)
    valid = batch.valid[:, : data.shape[1]].repeat_interleave(n, 0)  # [B * n, H]
    square = torch.where(valid[..., None], error, 0).square().mean(2).sum(1)
    return (square / valid.sum(1).clamp_min(1)).unflatten(0, (-1, n))
