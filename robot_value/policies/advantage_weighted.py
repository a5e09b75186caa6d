"""Advantage-weighted flow matching: ALOE's actor (arXiv 2602.12691), AWR and IQL's extraction on chunks.

    L = w L_flow(a)      w = clip(exp(A / temperature), 0, max_weight)
    A(s, a) = Q(s, a) - mean_{a' ~ pi} Q(s, a')      Q with the critic's own pessimism, the least member in ALOE

The policy only ever imitates what is in the data, and better chunks more. Defining term: w; with w = 1 it is cloning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..flow import Guide
from ..normalize import Statistics
from ..types import Features, Spec
from . import flow
from .chunk_actor import ChunkActor, Metrics

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    base: flow.Config = flow.Config()  # the flow that is trained; with --base=CHECKPOINT training starts from there
    samples: int = 4  # own chunks that stand for the policy's value; own choice, one decision of the backup's cost
    temperature: float = 0.1  # of the weights, in the unit of returns; IQL's 1/10 for rewards of 0 and 1
    max_weight: float = 100.0  # largest weight; IQL and AWAC's practice
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the own chunks (networks/packed.py)

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        if self.temperature <= 0 or self.samples < 1:
            got = f"temperature {self.temperature} and {self.samples} samples"
            raise ValueError(f"expected a temperature > 0 and at least 1 sample, got {got}")
        return ChunkActor(self, spec, statistics, tasks, act=act, loss=loss, freezes_base=False)


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    return actor.base.sample(context, noise.shape[1], noise, prefix, guide)[0]


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Weights are normalized by their sum over the batch, as every row weight is."""
    advantage = advantages(actor, batch, generator)
    w = weights(advantage, actor.config.temperature, actor.config.max_weight)
    cloning = actor.base.loss(replace(batch, weight=batch.weight * w), generator)[0]
    return cloning, {"advantage": advantage.mean(), "weight": w.mean()}


@torch.no_grad()
def advantages(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
    """A(s, a) [B] of the recorded chunks; one call of the critic for these and the policy's own."""
    n = actor.config.samples
    own = actor.teach(actor.features(batch), actor.draw(batch, generator, n))
    q = actor.judge(batch, torch.cat([batch.chunks[:, None], own], 1), generator)  # [B, 1 + n]
    return q[:, 0] - q[:, 1:].mean(1)


# w = clip(exp(A / temperature), 0, max_weight)
def weights(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    return (advantage / temperature).exp().clamp(max=max_weight)
