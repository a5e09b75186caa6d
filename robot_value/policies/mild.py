"""A mildly constrained evaluation policy: MCEP (Xu et al. 2023, arXiv 2306.03680), with FQL's one-step actors.

    L = L_flow + L(mu_target; target_alpha) + L(mu; alpha)      L(mu; a) = a |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z))

The backup values mu_target, which stays close to the data (target_alpha); what acts is mu, which may leave it further
(alpha < target_alpha). What keeps values honest is stricter than what a good choice of actions needs.
Defining term: alpha below target_alpha. With both equal this is FQL, its actor trained twice.
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
    width: int = 256  # hidden width of both actors
    depth: int = 3  # hidden layers of both actors
    target_alpha: float = 100.0  # how strictly the policy in the backup stays with the flow; QC-FQL's alpha
    alpha: float = 10.0  # how mildly the policy that acts does, below target_alpha; own choice, MCEP tunes it per task
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the flow's own chunks (networks/packed.py)
    seed: int = 0  # of the actors' initial weights

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        if not 0 <= self.alpha <= self.target_alpha:
            raise ValueError(f"alpha: expected 0 to target_alpha = {self.target_alpha}, got {self.alpha}")
        return ChunkActor(
            self, spec, statistics, tasks, networks=networks, act=act, loss=loss, act_in_backup=act_strictly
        )


def networks(actor: ChunkActor) -> dict[str, nn.Module]:
    c = actor.config
    return {name: one_step_head(actor, c.width, c.depth) for name in ("mu_target", "mu")}


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    return act_in_one_step(actor, actor.mu, context, noise, prefix, guide)


def act_strictly(
    actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None
) -> Tensor:
    return act_in_one_step(actor, actor.mu_target, context, noise, prefix, guide)


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c, cloning = actor.config, actor.clone(batch, generator)
    strict, of_strict = distilled_loss(actor, actor.mu_target, c.target_alpha, batch, generator)
    mild, of_mild = distilled_loss(actor, actor.mu, c.alpha, batch, generator)
    metrics = {f"target_{name}": value for name, value in of_strict.items()}
    return cloning + strict + mild, {"flow_loss": cloning} | metrics | of_mild
