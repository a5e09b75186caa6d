"""How close a chunk comes to what must not happen: Hamilton-Jacobi feasibility (FISOR, Zheng et al. 2024).

    Q_h(s_t, a_{0:k}) <- D_t,   D_i = (1 - gamma) c_i + gamma max(c_i, D_{i+1}),   D_{t+k} = V_h(s_{t+k})
    V_h <- lower expectile of Q_h(s, a): the least dangerous of the recorded chunks          value = Q_h, the RISK

arXiv 2401.10700, folded over a chunk's k steps. c is 1 at a violation and 0 elsewhere, so a risk is gamma^n
for an unavoidable violation in n steps, and 0 where it can be avoided for ever. The paper's threshold 0, for an h of -1
and +1, is a risk of 1/2. Larger is WORSE: score as a named risk beside a critic of values, never alone by argmax.
Defining term: the maximum over time. With the sum in its place this is a value of costs, which an end can make small.
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
from .backups import expectile_loss, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .value_networks import QNetwork, VNetwork

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    # beside steps that end an unsuccessful episode, steps of at most this reward are violations; RLIF's data have -1
    cost_below: float | None = None
    expectile: float = 0.9  # of V_h, towards the lowest risk; FISOR
    members: int = 2  # networks in the Q_h ensemble; FISOR
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; FISOR uses two of 256
    layer_norm: bool = True  # LayerNorm in Q_h and V_h; steadier bootstrapping (RLPD)
    gamma: float = 0.99  # how near a violation must be to count; FISOR
    aggregate: str = "mean"  # mean | min | subset_min over the ensemble
    rho: float = -1.0  # with mean: subtract rho * std; -1 makes it the larger of two members, FISOR's pessimism
    tau: float = 0.005  # step of the averaged Q_h per update; IQL
    lr: float = 3e-4  # Adam learning rate; FISOR
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, averaged=("q",), loss=loss)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, features = critic.config, critic.encoder.features
    q = QNetwork(features, critic.scope, critic.spec.action_dim, c.members, c.hidden, c.layer_norm)
    return {"q": q, "v": VNetwork(features, c.hidden, c.layer_norm)}


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    """Q_h loss + V_h loss; each network only feels its own, as in iql.py."""
    c, cost = critic.config, costs(batch, critic.config.cost_below)
    features, chunk = critic.see(batch, generator)
    with torch.no_grad():
        following = critic.v(critic.ahead(batch, critic.scope, generator))[0]  # [B]
        judged = critic.pessimistic(critic.target["q"](features, chunk))
    target = reachable(batch, cost, following, critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, Distribution.point(target), generator)  # [E, B]
    v = critic.v(features.detach())[0]
    q_loss, v_loss = weighted_mean(q_loss, batch.weight), expectile_loss(judged - v, 1 - c.expectile, batch.weight)
    metrics = {"q_loss": q_loss, "v_loss": v_loss, "risk": q.mean(), "v": v.mean(), "cost": cost.mean()}
    return q_loss + v_loss, metrics


def costs(batch: ChunkBatch, below: float | None) -> Tensor:
    """float32[B, L]: 1 where a step ended the episode without success, or its reward is at most `below`."""
    violated = batch.terminated & (batch.success == 0)[:, None]
    if below is not None:
        violated = violated | (batch.valid & (batch.rewards <= below))
    return violated.float()


# D_i = (1 - gamma) c_i + gamma max(c_i, D_{i+1}); just c_i where the task ended, D_{i+1} past the end of the record
def reachable(batch: ChunkBatch, cost: Tensor, following: Tensor, gamma: float, k: int) -> Tensor:
    """cost [B, L], following [B], the risk of next[k] -> [B], the risk of the chunk's k steps and what comes after."""
    risk = following
    for c, valid, ended in zip(
        *(x[:, :k].flip(1).unbind(1) for x in (cost, batch.valid, batch.terminated)), strict=True
    ):
        step = torch.where(ended, c, (1 - gamma) * c + gamma * torch.maximum(c, risk))
        risk = torch.where(valid, step, risk)
    return risk
