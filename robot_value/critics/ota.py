"""Option-aware temporally abstracted values (Ahn et al. 2025, arXiv 2505.12737): V looks n steps ahead at once.

    V(s_t) <- expectile_tau of  returns_n + bootstrap_n * Vbar(s_{t+n})           no action in it
    Q(s_t, a_{t:t+k}) <- returns_k + bootstrap_k * Vbar(s_{t+k})                  what scores chunks

An option of n steps divides the number of backups to a distant goal by n, and with it the errors that add up on the
way: far from the goal, values keep their order. An option ends with its episode. A discount of g per option, as in the
paper, is gamma = g^(1/n) here. Defining term: the option length n in V's own backup; n = 1 is plain IVL.
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
from .backups import expectile_loss, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # k, leading chunk steps that are scored and must be executed, 0 is the whole horizon
    option: int = 5  # n, control steps of V's backup, may exceed the horizon; OTA's abstraction factor is 5
    expectile: float = 0.7  # tau of V; OTA. Without actions in it, luck counts as skill: keep it low where chance rules
    members: int = 2  # networks in the Q ensemble
    v_members: int = 2  # networks in the V ensemble, whose targets are averaged; OTA
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; OTA uses (512,) * 3
    layer_norm: bool = True  # OTA
    head: HeadConfig = HeadConfig()  # what Q puts out
    gamma: float = 0.99  # discount per control step; OTA takes 0.99 to 0.999 per option
    aggregate: str = "mean"  # mean | min | subset_min over the Q ensemble, in scores
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged V per update; OTA
    lr: float = 3e-4  # Adam learning rate; OTA
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        offsets = tuple(dict.fromkeys((self.scope or spec.horizon, self.option)))
        options = {"networks": networks, "loss": loss, "averaged": ("v",), "offsets": offsets}
        return ChunkCritic(self, spec, statistics, tasks, **options)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features, head = critic.config, critic.encoder.features, make_head(critic.config.head, critic.statistics)
    q = QNetwork(features, critic.scope, critic.spec.action_dim, c.members, c.hidden, c.layer_norm, head)
    return {"q": q, "v": VNetwork(features, c.hidden, c.layer_norm, members=c.v_members)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c = critic.config
    features, chunk = critic.see(batch, generator)
    option, target = (backed_up(critic, batch, k, generator) for k in (c.option, critic.scope))  # [B]
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    v = critic.v(features.detach())  # [E, B]: images are encoded for Q's sake
    q_loss, v_loss = weighted_mean(q_loss, batch.weight), expectile_loss(option.mean - v, c.expectile, batch.weight)
    metrics = {"q_loss": q_loss, "v_loss": v_loss, "q": q.mean(), "v": v.mean(), "target": target.mean.mean()}
    return q_loss + v_loss, metrics


@torch.no_grad()
def backed_up(critic: ChunkCritic, batch: ChunkBatch, k: int, generator: torch.Generator | None) -> Distribution:
    """returns_k + bootstrap_k * mean_i Vbar_i(s_{t+k})."""
    return td_target(batch, critic.target["v"](critic.ahead(batch, k, generator)).mean(0), critic.gamma, k)
