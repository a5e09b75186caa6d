"""Decoupled Q-chunking (Li et al. 2025, arXiv 2512.10926): long chunks carry the value, short ones are judged by it.

    Q_h(s, a_{0:h})    <-BCE-  returns_h + bootstrap_h * V(s_{t+h})
    Q(s, a_{0:k})      <-BCE, weight |kappa_d - 1(Q_h < Q)|-  Q_h(s, a_{0:h})      optimistic about a_{k:h}
    V(s)               <-|logit difference|, weight |kappa_b - 1(q < V)|-  q = agg_i Qbar_i(s, a_{0:k})

A chunk of h = `chunk` steps backs up without the bias of n-step returns; a policy of k = `scope` steps stays reactive
and is easier to search. No policy samples anywhere. Values are probabilities of [low, high], as the head says.
Defining term: the distillation from the chunk critic to the partial one that scores.
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
from .backups import quantile_loss, slope, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

EDGE = 1e-5  # logits are compared where probabilities are this far from 0 and 1


@dataclass(frozen=True)
class Config:
    scope: int = 1  # k, leading chunk steps that are scored and must be executed, 0 is the whole horizon; DQC 1 or 5
    chunk: int = 0  # h, steps of the chunk critic and of its backup, 0 is the whole horizon; DQC 25 or 5
    kappa_d: float = 0.8  # expectile of the distillation; DQC 0.5 to 0.8
    kappa_b: float = 0.9  # quantile of V; DQC 0.93 on cubes, 0.5 to 0.9 elsewhere
    members: int = 2  # networks in both Q ensembles; DQC
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; DQC uses (1024,) * 4
    layer_norm: bool = True  # DQC
    low: float = 0.0  # least return; low = high = 0 takes both from the data's returns
    high: float = 0.0  # largest return; DQC knows 0 and 1
    gamma: float = 0.99  # discount per control step; DQC uses 0.999 on tasks of thousands of steps
    aggregate: str = "min"  # mean | min | subset_min, in V and in scores; DQC takes min on cubes, mean elsewhere
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged partial critic per update; DQC
    lr: float = 3e-4  # Adam learning rate; DQC
    grad_clip: float = 10.0  # largest gradient norm; DQC clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        h = self.chunk or spec.horizon
        if not (self.scope or spec.horizon) <= h <= spec.horizon:
            raise ValueError(f"chunk: expected 0, or the scope to the horizon of {spec.horizon} steps, got {h}")
        options = {"networks": networks, "loss": loss, "averaged": ("q",), "offsets": (h,)}
        return ChunkCritic(self, spec, statistics, tasks, **options)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    """q sees k steps and scores, whole sees h, v none."""
    c, (h,), features, actions = critic.config, critic.offsets, critic.encoder.features, critic.spec.action_dim
    head = make_head(HeadConfig(kind="logit", low=c.low, high=c.high), critic.statistics)
    q, whole = (QNetwork(features, k, actions, c.members, c.hidden, c.layer_norm, head) for k in (critic.scope, h))
    return {"q": q, "whole": whole, "v": VNetwork(features, c.hidden, c.layer_norm, head)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c, (h,) = critic.config, critic.offsets
    features, part = critic.see(batch, generator)
    chunk = critic.actions.normalize(batch.chunks[:, :h])
    with torch.no_grad():
        following = critic.v(critic.ahead(batch, h, generator))[0]
        judged = critic.pessimistic(critic.target["q"](features, part))  # [B]
    target = td_target(batch, following, critic.gamma, h)
    whole, whole_loss = critic.whole.regress(features, chunk, target, generator)  # [E, B]
    q, q_loss = distilled(critic, features, part, whole.detach(), generator)
    whole_loss, q_loss = weighted_mean(whole_loss, batch.weight), weighted_mean(q_loss, batch.weight)
    head, v = critic.v.head, critic.v.head.logit(critic.v.net, features.detach())[0]  # [B]
    v_loss = quantile_loss(torch.logit(head.unit(judged), EDGE) - v, c.kappa_b, batch.weight)
    metrics = {"q_loss": q_loss, "whole_loss": whole_loss, "v_loss": v_loss}
    values = {"q": q.mean(), "whole": whole.mean(), "v": head.value(v).mean(), "target": target.mean.mean()}
    return whole_loss + q_loss + v_loss, metrics | values


def distilled(
    critic: ChunkCritic, features: Tensor, part: Tensor, whole: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The partial critic's (mean, loss) [E, B] against the chunk critic's whole [E, B], member by member."""
    q, error = critic.q.regress(features, part, Distribution.point(whole), generator)
    return q, slope(whole - q.detach(), critic.config.kappa_d) * error
