"""The one-step actor of FQL (Park et al. 2025, arXiv 2502.02538) and QC-FQL (Li et al. 2025, arXiv 2507.07969).

    L = L_flow + alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z))

A flow clones the data; mu learns to end where the flow ends, in one call, unless the critic knows better.
Defining term: -Q(s, mu). Without it mu is the flow, only faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..flow import Guide
from ..normalize import Statistics
from ..types import Features, Spec
from . import flow
from ._distillation import act_in_one_step, distilled_loss, one_step_head
from .chunk_actor import ChunkActor, Metrics

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    base: flow.Config = flow.Config()  # the flow that clones the data; --base=CHECKPOINT brings a trained one
    width: int = 256  # hidden width of mu; QC-FQL uses 512
    depth: int = 3  # hidden layers of mu; QC-FQL uses 4
    alpha: float = 100.0  # weight of staying with the flow; QC-FQL, FQL tunes it per task from 10 up
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the flow's own chunks (networks/packed.py)
    seed: int = 0  # of mu's initial weights

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        return ChunkActor(self, spec, statistics, tasks, networks=networks, act=act, loss=loss)


def networks(actor: ChunkActor) -> dict[str, nn.Module]:
    return {"mu": one_step_head(actor, actor.config.width, actor.config.depth)}


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    return act_in_one_step(actor, actor.mu, context, noise, prefix, guide)


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    cloning = actor.clone(batch, generator)
    climbing, metrics = distilled_loss(actor, actor.mu, actor.config.alpha, batch, generator)
    return cloning + climbing, {"flow_loss": cloning} | metrics
