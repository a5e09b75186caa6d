"""A policy over the noise of a frozen flow: DSRL (Wagenmaker et al. 2025, arXiv 2506.15799).

    z ~ pi_z(. | s),  |z| <= bound,  a = flow(s, z)
    L = temperature log pi_z(z | s) - Q_z(s, z)

Whatever z is, the chunk is one that the flow makes; choosing z chooses among what the flow knows. Q_z judges the noise
itself (critics/noise_critic.py distils it from Q), so nothing is differentiated through the flow's steps.
Defining term: -Q_z. Without it pi_z only spreads over the box, and the flow's chunks are anybody's.
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
from ._gaussian import SquashedGaussian, Temperature
from .chunk_actor import ChunkActor, Metrics, row_mean, still

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    base: flow.Config = flow.Config()  # the flow whose noise is chosen; DSRL's comes trained, by --base=CHECKPOINT
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the noise network; DSRL uses (2048,) * 3
    bound: float = 1.5  # largest |z| per number; DSRL on robomimic
    temperature: float = 0.01  # where the tuned weight of the entropy starts; for rewards of 0 and 1, SAC has 1
    entropy: float = -0.5  # target entropy of z / bound per number of a chunk; SAC's practice of half of -dim
    seed: int = 0  # of the noise network's initial weights

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        return ChunkActor(self, spec, statistics, tasks, networks=networks, act=act, loss=loss)


def networks(actor: ChunkActor) -> dict[str, nn.Module]:
    gaussian = SquashedGaussian(actor.encoder.features, actor.config.hidden, actor.spec.horizon, actor.spec.action_dim)
    return {"chooser": gaussian, "temperature": Temperature(actor.config.temperature)}


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    z, _ = choose(actor, context, noise)
    return actor.base.sample(context, noise.shape[1], z, prefix, guide)[0]


def choose(actor: ChunkActor, context: Features, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Standard normal noise [B, n, H, A] -> (the flow's noise z, log pi_z(z / bound) [B, n])."""
    n = noise.shape[1]
    x, log_pi = actor.chooser(context.repeat(n).value, noise.flatten(0, 1))
    return (actor.config.bound * x).unflatten(0, (-1, n)), log_pi.unflatten(0, (-1, n))


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    cloning = actor.clone(batch, generator)
    z, log_pi = choose(actor, actor.features(batch), actor.draw(batch, generator))
    q, log_pi = row_mean(judge_noise(actor, batch, z, generator), batch.weight), row_mean(log_pi, batch.weight)
    target = actor.config.entropy * z[0].numel()
    climbing = actor.temperature().detach() * log_pi - q
    total = cloning + climbing + actor.temperature.loss(log_pi, target)
    return total, {"flow_loss": cloning, "q": q, "entropy": -log_pi, "temperature": actor.temperature()}


def judge_noise(actor: ChunkActor, batch: ChunkBatch, z: Tensor, generator: torch.Generator | None) -> Tensor:
    """z [B, n, H, A] -> Q_z [B, n], differentiable in z alone. A critic of chunks refuses."""
    with still(actor.critic):
        return actor.critic.score_noise(actor.seen(batch.observation, generator), z).value
