"""n-step returns for a critic of the first action(s) alone: the cheap baseline that is hard to beat ("NS" in DQC).

    Q(s_t, a_{t:t+k}) <- returns_n + bootstrap_n * V(s_{t+n}),   n > k = `scope`, 1 by default
    V(s) <- expectile_tau of Q(s, a)        or  V(s) = Qbar(s, a*), a* the best of N that the policy proposes

Rewards travel n steps per update, and one action is easier to judge than a chunk; in exchange the n - k steps that Q
does not see are the data's own, good or bad: the value is biased towards the policies that made the data.
Baseline of Li et al. 2025, arXiv 2512.10926. Defining term: the return is longer than what Q sees, n > k.
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
from .backups import best_of_n_value, expectile_loss, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics, one_of
from .distribution import Distribution
from .heads import HeadConfig, make_head
from .regularizers import RegularizerConfig
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

BACKUPS = ("expectile", "best_of_n")


@dataclass(frozen=True)
class Config:
    scope: int = 1  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; NS scores 1
    n: int = 0  # control steps before the bootstrap, 0 is the horizon; NS takes 5 and 25
    backup: str = "expectile"  # expectile (no policy needed) | best_of_n (Q-chunking's "-n" baselines)
    expectile: float = 0.7  # tau of V; NS takes quantiles of 0.5 to 0.7 for n = 5
    candidates: int = 32  # N of best_of_n
    members: int = 2  # networks in the Q ensemble; DQC
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; DQC uses (1024,) * 4
    layer_norm: bool = True  # DQC
    head: HeadConfig = HeadConfig()  # what Q puts out; logit in DQC
    gamma: float = 0.99  # discount per control step; DQC uses 0.999
    aggregate: str = "min"  # mean | min | subset_min, in V and in scores; DQC takes min on cubes, mean elsewhere
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble
    tau: float = 0.005  # step of the averaged critics per update
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        one_of("backup", self.backup, BACKUPS)
        n, sampled = self.n or spec.horizon, self.backup == "best_of_n"
        if n < (self.scope or spec.horizon):
            raise ValueError(f"n: expected at least the scope of {self.scope or spec.horizon} steps, got {n}")
        options = {"networks": networks, "loss": loss, "averaged": ("q",), "offsets": (n,), "needs_policy": sampled}
        return ChunkCritic(self, spec, statistics, tasks, **options)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features, head = critic.config, critic.encoder.features, make_head(critic.config.head, critic.statistics)
    q = QNetwork(features, critic.scope, critic.spec.action_dim, c.members, c.hidden, c.layer_norm, head)
    return {"q": q} if c.backup == "best_of_n" else {"q": q, "v": VNetwork(features, c.hidden, c.layer_norm)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    c, (n,) = critic.config, critic.offsets
    features, chunk = critic.see(batch, generator)
    target = td_target(batch, next_value(critic, batch, n, generator), critic.gamma, n)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    total = q_loss = weighted_mean(q_loss, batch.weight)
    metrics = {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}
    if c.backup == "expectile":
        v = critic.v(features.detach())[0]  # [B]: images are encoded for Q's sake
        with torch.no_grad():
            judged = critic.pessimistic(critic.target["q"](features, chunk))
        v_loss = expectile_loss(judged - v, c.expectile, batch.weight)
        total, metrics = q_loss + v_loss, metrics | {"v_loss": v_loss, "v": v.mean()}
    return total, metrics


@torch.no_grad()
def next_value(critic: ChunkCritic, batch: ChunkBatch, n: int, generator: torch.Generator | None) -> Distribution:
    following = critic.ahead(batch, n, generator)
    if critic.config.backup == "expectile":
        return Distribution.point(critic.v(following)[0])
    proposed = critic.propose(batch.next[n], critic.config.candidates, generator)
    return best_of_n_value(critic, following, proposed, generator)
