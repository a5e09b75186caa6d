"""Implicit Q-learning on action chunks: a critic that never asks the policy what it would do next.

    V <- expectile_tau of Q(s, a_{0:k})       Q <- returns_k + bootstrap_k * V(s_{t+k})

Kostrikov et al. 2022, eq. 5-6, with the chunk of k = `scope` steps as the action (Q-chunking, Li et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.ema import frozen_copy, lerp_
from ..networks.observation import EncoderConfig, ObservationEncoder
from ..networks.seeding import seeded_weights
from ..normalize import Normalizer, Statistics
from ..sampling import to_tensors
from ..types import Features, Observation, Scores, Spec
from .backups import BACKUPS, expectile_loss, td_target, weighted_mean
from .ensemble import AGGREGATES, aggregate, spread
from .heads import QHead, VHead

if TYPE_CHECKING:
    from ..protocols import Context
    from ..sampling import ChunkBatch

TARGETS = ("q", "v")


@dataclass(frozen=True)
class Config:
    scope: int = 0  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    members: int = 4  # networks in the Q ensemble; measured on Lift, 1 to 4 within noise
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # LayerNorm in Q and V; steadier bootstrapping (RLPD, Q-chunking)
    gamma: float = 0.98  # discount per control step
    backup: str = "expectile"  # expectile (IQL) | mc (regress on the episode's own return)
    expectile: float = 0.8  # tau of V, 0.5 is the mean; IQL uses 0.7 to 0.9
    aggregate: str = "min"  # min | mean over the ensemble, in the V target and in scores
    rho: float = 0.0  # with mean: subtract rho * std over the ensemble; FEdit uses 0.5
    target: str = "q"  # q | v: which network is averaged for targets; IQL averages q, v is cheaper
    tau: float = 0.005  # step of the averaged target per update
    lr: float = 3e-4  # Adam learning rate, constant
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> IQL:
        with seeded_weights(self.seed):
            return IQL(self, spec, statistics, tasks)


class IQL(nn.Module):
    def __init__(
        self, config: Config, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()
    ) -> None:
        super().__init__()
        _check(config, spec)
        self.config, self.spec, self.statistics, self.tasks = config, spec, dict(statistics), tuple(tasks)
        self.scope = config.scope or spec.horizon
        self.gamma = config.gamma
        self.actions = Normalizer.of(statistics, "action", "mean_std")
        self.encoder = ObservationEncoder(spec, statistics, config.encoder)
        features = self.encoder.features
        self.q = QHead(features, self.scope, spec.action_dim, config.members, config.hidden, config.layer_norm)
        self.v = VHead(features, config.hidden, config.layer_norm)
        self.target = frozen_copy(self.q if config.target == "q" else self.v)
        self.optimizer: torch.optim.Optimizer | None = None  # made at the first update, on the device of that time

    @torch.no_grad()
    def encode(self, observation: Observation, policy_context: Context | None = None) -> Features:
        """The critic's own features; the policy's are not used."""
        return Features(self.encoder(to_tensors(observation, self.device)))

    def score(self, context: Features, chunks: Tensor, lengths: Tensor | None = None) -> Scores:
        """chunks float32[B, N, H, A] in spec units; differentiable with respect to them."""
        batch, n = chunks.shape[:2]
        leading = hold_last(chunks, lengths, self.scope).flatten(0, 1)
        values = self.q(context.repeat(n).value, self.actions.normalize(leading)).unflatten(1, (batch, n))
        value = aggregate(values, self.config.aggregate, self.config.rho)
        return Scores(value, spread(values), torch.ones_like(value, dtype=torch.bool))

    def value(self, context: Features) -> Tensor:
        """V of the encoded observations, float32[B]."""
        return self.v(context.value)

    def loss(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Q loss + V loss; each network only feels its own."""
        chunk = self.actions.normalize(batch.chunks[:, : self.scope])
        observation = self.encoder.augment(batch.observation, generator) if self.training else batch.observation
        features = self.encoder(observation)
        q = self.q(features, chunk)  # [E, B]
        v = self.v(features.detach())  # [B]: images are encoded for Q's sake
        target = self._target(batch, generator)
        with torch.no_grad():
            judged = self.target(features, chunk) if self.config.target == "q" else q.detach()
            judged = aggregate(judged, self.config.aggregate, self.config.rho)
        q_loss = weighted_mean((q - target).square(), batch.weight)
        v_loss = expectile_loss(judged - v, self.config.expectile, batch.weight)
        metrics = {"q_loss": q_loss, "v_loss": v_loss, "q": q.mean(), "v": v.mean(), "target": target.mean()}
        return q_loss + v_loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def _target(self, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
        if self.config.backup == "mc":
            return batch.mc_return
        following = batch.next[self.scope]
        if self.training:
            following = self.encoder.augment(following, generator)
        value = self.v if self.config.target == "q" else self.target
        return td_target(batch, value(self.encoder(following)), self.gamma, self.scope)

    def update(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One gradient step and one step of the averaged target."""
        if self.optimizer is None:
            self.make_optimizer()
        loss, metrics = self.loss(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for p in self.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        self.optimizer.step()
        lerp_(self.target, self.q if self.config.target == "q" else self.v, self.config.tau)
        return {"loss": loss.detach(), "grad_norm": norm.detach(), **metrics}

    def make_optimizer(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=self.config.lr, fused=True)
        return self.optimizer

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def hold_last(chunks: Tensor, lengths: Tensor | None, scope: int) -> Tensor:
    """The first `scope` steps [B, N, scope, A]; beyond a chunk's length its last action repeats, as in training."""
    if chunks.shape[2] < scope:
        raise ValueError(f"chunks: expected at least {scope} steps (the critic's scope), got {chunks.shape[2]}")
    leading = chunks[:, :, :scope]
    if lengths is None or bool((lengths >= scope).all()):
        return leading
    step = torch.arange(scope, device=chunks.device).expand(*chunks.shape[:2], scope)
    step = torch.minimum(step, (lengths.clamp_min(1) - 1)[..., None])
    return leading.gather(2, step[..., None].expand_as(leading))


def _check(config: Config, spec: Spec) -> None:
    for name, allowed in (("backup", BACKUPS), ("aggregate", AGGREGATES), ("target", TARGETS)):
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(config, name)!r}")
    if spec.horizon < 1 or not 0 <= config.scope <= spec.horizon:
        raise ValueError(
            f"scope: expected 0 to the horizon of {spec.horizon} steps (at least 1), got {config.scope}; "
            "choose the horizon with spec.choose(horizon=...)"
        )
