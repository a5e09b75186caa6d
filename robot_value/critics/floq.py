"""floq (Agrawalla et al. 2025, arXiv 2509.06863): a value reached in several steps along a learned velocity.

    L_flow = (v(s, a, z_t, t) - (y - z_0))^2,  z_t = (1 - t) z_0 + t y,  z_0 ~ U[l, u],  t ~ U[0, 1]
    y      = returns_k + bootstrap_k * Qbar_flow(s_{t+k}, a'),   Q_flow = mean over z_0 of the ends of K Euler steps
    L_mlp  = (Q(s, a) - sg Q_flow(s, a))^2

Defining term: the integration. Each step sees where the last one ended, so errors of early steps are corrected; with
one step there is only a sum. The MLP that the flow is distilled into scores chunks, picks a' among the policy's own
(1: its sample, more: the best of them) and gives gradients, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import best_chunk, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    candidates: int = 1  # chunks of the policy per backup: 1 is its sample (floq), more the best of them by the MLP
    flow_steps: int = 8  # K, Euler steps of a readout; floq
    draws: int = 8  # starts z_0 per value, and (z_0, t) per row and update; floq averages 8 starts
    bins: int = 50  # of the embedding of z; floq
    spread: float = 0.32  # width of that embedding, share of [low, high]; floq uses 16 of 50 bins
    coverage: float = 0.1  # width of [l, u], share of [low, high]; floq
    cosines: int = 16  # of the embedding of t; floq uses 64
    low: float = 0.0  # least return; low = high = 0 takes both from the data's returns
    high: float = 0.0  # largest return
    members: int = 2  # flows, each with its own MLP; floq
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; floq uses (512,) * 4
    layer_norm: bool = True  # floq
    gamma: float = 0.99  # discount per control step; floq
    aggregate: str = "mean"  # mean | min | subset_min over members; floq takes the mean
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    tau: float = 0.005  # step of the averaged flow per update; floq
    lr: float = 3e-4  # Adam learning rate; floq
    grad_clip: float = 10.0  # largest gradient norm; floq clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=networks, averaged=("flow",), loss=loss, needs_policy=True
        )


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c = critic.config
    head = HeadConfig(
        kind="flow",
        low=c.low,
        high=c.high,
        bins=c.bins,
        draws=c.draws,
        cosines=c.cosines,
        flow_steps=c.flow_steps,
        spread=c.spread,
        coverage=c.coverage,
    )
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim, c.members, c.hidden, c.layer_norm
    return {"flow": QNetwork(*sizes, make_head(head, critic.statistics)), "q": QNetwork(*sizes)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Loss of the flow + loss of the MLP, which never reaches the encoder."""
    features, chunk = critic.see(batch, generator)
    target = _target(critic, batch, generator)
    flow, flow_loss = critic.flow.regress(features, chunk, target, generator)  # [E, B]
    with torch.no_grad():
        taught = critic.flow(features, chunk)  # [E, B]: each MLP has the flow of its own member
    q = critic.q(features.detach(), chunk)
    flow_loss = weighted_mean(flow_loss, batch.weight)
    q_loss = weighted_mean((q - taught).square(), batch.weight)
    metrics = {"flow_loss": flow_loss, "q_loss": q_loss, "q": q.mean(), "flow": flow.mean()}
    return flow_loss + q_loss, {**metrics, "target": target.mean.mean()}


@torch.no_grad()
def _target(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    """One number per row: floq backs up the mean, not the distribution."""
    c, following = critic.config, critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], c.candidates, generator)
    chosen = best_chunk(critic.q, critic, following, proposed)
    value = critic.pessimistic(critic.target["flow"](following, chosen))
    return td_target(batch, value, critic.gamma, critic.scope)
