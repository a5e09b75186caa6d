"""An edit policy on a cloned flow: EXPO (Dong et al. 2025, arXiv 2507.07986) on chunks, as FEdit (arXiv 2601.14234).

    a~ = a + beta Delta,  Delta ~ pi_e(. | s, a),  |Delta| < 1,  a ~ flow(s)
    L = L_flow + temperature log pi_e(Delta | s, a) - Q(s, a~)

The flow only clones; a small squashed Gaussian moves its samples uphill, at most by beta in every number. beta is in
half ranges of the recorded actions (EXPO's action box is [-1, 1]). Candidates come in pairs, the edited chunk and the
one it was made from, because EXPO's on-the-fly policy takes the best of both, in the backup and on the robot.
Defining term: beta Delta. Without it this is the best of N base samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..flow import Guide
from ..normalize import Normalizer, Statistics
from ..types import Features, Spec
from . import flow
from ._chunks import clip
from ._gaussian import SquashedGaussian, Temperature
from .chunk_actor import ChunkActor, Metrics, row_mean

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    base: flow.Config = flow.Config()  # the flow that is edited; --base=CHECKPOINT brings a trained one
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the edit network; EXPO
    beta: float = 0.15  # largest edit, in half ranges of the recorded actions; EXPO on robomimic
    temperature: float = 0.01  # where the tuned weight of the entropy starts; for rewards of 0 and 1, EXPO has 1
    entropy: float = -0.5  # target entropy of Delta per number of a chunk; EXPO
    pairs: bool = True  # candidates 0, 2, ... are edits, 1, 3, ... what they were made from; False: all are edits
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the flow's own chunks (networks/packed.py)
    seed: int = 0  # of the edit network's initial weights

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkActor:
        return ChunkActor(self, spec, statistics, tasks, networks=networks, act=act, loss=loss)


def networks(actor: ChunkActor) -> dict[str, nn.Module]:
    h, a = actor.spec.horizon, actor.spec.action_dim
    gaussian = SquashedGaussian(actor.encoder.features + h * a, actor.config.hidden, h, a)
    return {"edit": gaussian, "temperature": Temperature(actor.config.temperature)}


def act(actor: ChunkActor, context: Features, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """A guide sees the base samples, before they are edited; a prefix is never edited."""
    n, drawn = noise.shape[1], noise[:, ::2] if actor.config.pairs else noise
    chunks = actor.base.sample(context, drawn.shape[1], drawn, prefix, guide)[0]  # [B, m, H, A]
    edited, _ = edit(actor, context, chunks, turned(drawn))
    if prefix is not None:
        edited = torch.cat([chunks[:, :, : prefix.shape[1]], edited[:, :, prefix.shape[1] :]], 2)
    return torch.stack([edited, chunks], 2).flatten(1, 2)[:, :n] if actor.config.pairs else edited


def edit(actor: ChunkActor, context: Features, chunks: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """chunks [B, n, H, A] in spec units, noise alike -> (edited chunks, log pi_e [B, n])."""
    n, flat = chunks.shape[1], chunks.flatten(0, 1)
    inputs = torch.cat([context.repeat(n).value, actor.actions.normalize(flat).flatten(1)], -1)
    delta, log_pi = actor.edit(inputs, noise.flatten(0, 1))
    reach = actor.config.beta * half_range(actor).to(flat)
    edited = clip(flat + reach * delta, actor.base.low, actor.base.high)
    return edited.unflatten(0, (-1, n)), log_pi.unflatten(0, (-1, n))


def half_range(actor: ChunkActor) -> Tensor:
    """float32[A], spec units."""
    return torch.from_numpy(Normalizer.of(actor.statistics, "action", "min_max").scale)


def turned(noise: Tensor) -> Tensor:
    """The edit's own noise from the candidate's: every number moved on by half a chunk, so none meets itself."""
    flat = noise.flatten(-2)
    return flat.roll(flat.shape[-1] // 2, -1).view_as(noise)


def loss(actor: ChunkActor, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Edits are learned on fresh base samples (FEdit), which is what they are made to; EXPO takes the recorded ones."""
    cloning, context = actor.clone(batch, generator), actor.features(batch)
    chunks = actor.teach(context, actor.draw(batch, generator))
    edited, log_pi = edit(actor, context, chunks, actor.draw(batch, generator))
    q, log_pi = row_mean(actor.judge(batch, edited, generator), batch.weight), row_mean(log_pi, batch.weight)
    target = actor.config.entropy * chunks[0].numel()
    climbing = actor.temperature().detach() * log_pi - q
    total = cloning + climbing + actor.temperature.loss(log_pi, target)
    return total, {"flow_loss": cloning, "q": q, "entropy": -log_pi, "temperature": actor.temperature()}
