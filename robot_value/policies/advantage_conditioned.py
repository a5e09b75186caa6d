"""A flow that was told which of its data were good: RECAP, pi*0.6 (Physical Intelligence 2025, arXiv 2511.14759).

    L = L_flow(a | s, I),   I = "positive" where A(s, a) is among the best share of the batch, else "negative";
                            dropped with a small probability
    v = v(x | s) + w (v(x | s, positive) - v(x | s)),   w = 1: the conditional flow, w > 1: classifier-free guidance

A token is a vector that is added to the flow's condition. It starts at zero and a dropped one stays there, so a clone
that training starts from, by --base=CHECKPOINT, is the flow without a token. A(s, a) as in advantage_weighted.py.
Defining term: the token. Without it this is cloning, whatever w.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..flow import SAMPLERS, Guide, interpolate, masked_square, velocity_target
from ..networks.seeding import uniform
from ..normalize import Statistics
from ..types import Features, Spec
from . import flow
from ._chunks import clip, in_spec_units, sample_chunks
from .advantage_weighted import advantages
from .chunk_actor import ChunkActor, Metrics

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

NEGATIVE, POSITIVE = 0, 1


@dataclass(frozen=True)
class Config:
    seed: ClassVar[int] = 0  # of added weights, which here all start at zero
    base: flow.Config = flow.Config()  # the flow that is trained; with --base=CHECKPOINT training starts from there
    positive: float = 0.3  # share of a batch that is called good; RECAP's tasks, top 30 %
    drop: float = 0.1  # probability that a row's token is left out; RLinf's RECAP
    guidance: float = 1.0  # w when acting; other than 1 two network calls per step instead of one
    samples: int = 4  # own chunks that stand for the policy's value; as advantage_weighted
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the own chunks (networks/packed.py)

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        if not (0 < self.positive < 1 and 0 <= self.drop < 1 and self.guidance >= 0 and self.samples >= 1):
            raise ValueError(
                "expected positive in (0, 1), drop in [0, 1), guidance >= 0 and at least 1 sample, got "
                f"{self.positive}, {self.drop}, {self.guidance} and {self.samples}"
            )
        return ChunkActor(self, spec, statistics, tasks, networks=networks, act=act, loss=loss, freezes_base=False)


def networks(actor: ChunkActor) -> dict[str, nn.Module]:
    token = nn.Embedding(2, actor.base.config.width)
    nn.init.zeros_(token.weight)
    return {"token": token}


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in spec units."""
    base, sampler = actor.base, SAMPLERS[actor.base.config.sampler]
    x = sample_chunks(
        lambda x, t, condition: guided(actor, x, t, condition),
        lambda velocity, noise, guide, prefix: sampler(velocity, noise, base.sample_steps, guide, prefix),
        noise,
        base.head.condition(context.value),
        None if prefix is None else base.actions.normalize(prefix.to(noise)),
        in_spec_units(guide, base.actions),
        base.config.tile,
    )
    return clip(base.actions.unnormalize(x), base.low, base.high)


# v = v(x | s) + w (v(x | s, positive) - v(x | s))
def guided(actor: ChunkActor, x: Tensor, t: float, condition: Tensor) -> Tensor:
    """x [rows, H, A], condition [rows, width] -> velocity [rows, H, A]."""
    w, time = actor.config.guidance, torch.full((1,), t, device=x.device)
    positive = actor.base.head(x, time, condition + actor.token.weight[POSITIVE])
    if w == 1:
        return positive
    plain = actor.base.head(x, time, condition)
    return plain + w * (positive - plain)


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """The flow's own loss, each row with its token or without one."""
    c, base = actor.config, actor.base
    advantage = advantages(actor, batch, generator)
    label = labels(advantage, c.positive)
    kept = uniform(label.shape, label.device, generator) >= c.drop
    observation = base.encoder.augment(batch.observation, generator) if actor.training else batch.observation
    condition = base.head.condition(base.encoder(observation)) + kept[:, None] * actor.token(label)
    data, noise = base.actions.normalize(batch.chunks), actor.draw(batch, generator)[:, 0]
    t = uniform(label.shape, label.device, generator)
    error = base.head(interpolate(noise, data, t), t, condition) - velocity_target(noise, data)
    cloning = masked_square(error, batch.valid[:, : data.shape[1]], batch.weight)
    return cloning, {"advantage": advantage.mean(), "positive": (label == POSITIVE).float().mean()}


def labels(advantage: Tensor, share: float) -> Tensor:
    """advantage [B] -> int64[B]; where all are equal all are positive, so that the token that acts is always taught."""
    return torch.where(advantage >= advantage.quantile(1 - share), POSITIVE, NEGATIVE)
