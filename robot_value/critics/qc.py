"""Q-chunking (Li et al. 2025, arXiv 2507.07969): the backup takes the best of N chunks that a cloned policy proposes.

    y = returns_k + bootstrap_k * agg_i Qbar_i(s_{t+k}, a*)      a* = argmax_{n <= N} agg_i Q_i(s_{t+k}, a_n)

The online critics select, the averaged ones evaluate. Among the policy's own chunks, the maximum stays in the data.
With scope 1 this is best-of-N on single actions (BFN). Defining term: the maximum over the N chunks in the backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import annealed, best_chunk, policy_value, smoothed, td_target, weighted_mean
from .chunk_critic import ChunkCritic, Metrics
from .distribution import Distribution
from .heads import HeadConfig
from .regularizers import RegularizerConfig
from .value_networks import q_alone

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon; 1 is BFN
    candidates: int = 32  # N of the backup; Q-chunking uses 32, BFN 4
    annealing: int = 0  # updates from the best chunk's value to the policy's mean, 0 keeps the best; Omura et al. 2025
    smoothing: float = 0.0  # std of clipped noise on the best chunk, normalized units; TD3 uses 0.2 with aggregate=min
    members: int = 2  # networks in the Q ensemble; Q-chunking
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers; Q-chunking uses (512,) * 4
    layer_norm: bool = True  # Q-chunking
    head: HeadConfig = HeadConfig()  # what Q puts out; scalar in Q-chunking
    gamma: float = 0.99  # discount per control step; Q-chunking
    aggregate: str = "mean"  # mean | min | subset_min; Q-chunking takes the mean
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble; QAM uses 0.5
    precision: str = "off"  # off | auto | float32 | bfloat16: arithmetic of the candidates (networks/packed.py)
    tau: float = 0.005  # step of the averaged critics per update
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm; Q-chunking clips nothing
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features
    regularizer: RegularizerConfig = RegularizerConfig()  # penalties beside the loss, all off

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        return ChunkCritic(
            self, spec, statistics, tasks, networks=q_alone, averaged=("q",), loss=loss, needs_policy=True
        )


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    target = td_target(batch, next_value(critic, batch, generator), critic.gamma, critic.scope)
    q, q_loss = critic.q.regress(features, chunk, target, generator)
    q_loss = weighted_mean(q_loss, batch.weight)
    return q_loss, {"q_loss": q_loss, "q": q.mean(), "target": target.mean.mean()}


@torch.no_grad()
def next_value(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> Distribution:
    """Of the best proposal (with TD3's noise where asked for), and more and more of all of them while annealing."""
    c, features = critic.config, critic.ahead(batch, critic.scope, generator)
    proposed = critic.propose(batch.next[critic.scope], c.candidates, generator)
    chosen = best_chunk(critic.q, critic, features, proposed)
    if c.smoothing:
        chosen = smoothed(critic, chosen, c.smoothing, generator)
    best = policy_value(critic, features, chosen[:, None], generator)
    if not c.annealing:
        return best
    return annealed(best, policy_value(critic, features, proposed, generator), critic.step, c.annealing)
