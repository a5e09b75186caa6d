"""What every critic has: an encoder, networks by name, their averaged copies, an optimizer, and the Critic protocol.

An algorithm is a page beside this file: a Config, the networks it trains, and the loss that defines it.

    def build(self, spec, statistics, tasks=()):
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, averaged=("q",), loss=loss)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..networks.ema import frozen_copy, lerp_
from ..networks.observation import EncoderConfig
from ..networks.policy_features import check_policy, critic_encoder
from ..networks.seeding import seeded_weights
from ..normalize import Normalizer, Statistics
from ..ranks import average_gradients
from ..sampling import TensorObservation, to_tensors
from ..types import Features, Observation, Scores, Spec
from .auxiliary import Taco, taco_loss
from .candidates import propose
from .ensemble import AGGREGATES, aggregate, spread
from .regularizers import penalty

if TYPE_CHECKING:
    from ..protocols import ChunkPolicy, Context
    from ..sampling import ChunkBatch

Metrics = dict[str, Tensor]  # detached numbers by name


class CriticConfig(Protocol):
    """What the Config of every page says; each page has its own defaults and their source."""

    scope: int  # leading chunk steps that are scored and must be executed, 0 is the whole horizon
    gamma: float  # discount per control step
    aggregate: str  # mean | min | subset_min over the ensemble
    rho: float  # with mean: subtract rho * std over the ensemble
    tau: float  # step of the averaged networks per update, where there are some
    lr: float  # Adam learning rate
    grad_clip: float  # largest gradient norm
    seed: int  # of the initial weights
    encoder: EncoderConfig  # how observations become features


class ChunkCritic(nn.Module):
    def __init__(
        self,
        config: Any,  # CriticConfig
        spec: Spec,
        statistics: Mapping[str, Statistics],
        tasks: Sequence[str] = (),
        *,
        networks: Callable[[ChunkCritic], Mapping[str, nn.Module]],  # made with weights drawn from config.seed
        loss: Callable[[ChunkCritic, ChunkBatch, torch.Generator | None], tuple[Tensor, Metrics]],
        averaged: Sequence[str] = (),  # networks of which `target[name]` is a Polyak average
        values: Callable[[ChunkCritic, Tensor, Tensor], Tensor] | None = None,  # (features, chunk) -> [E, rows]
        # (features [rows, F], noise [rows, H, A], flow time [rows] or None for seeds) -> [E, rows]; default: refuses
        noise_values: Callable[[ChunkCritic, Tensor, Tensor, Tensor | None], Tensor] | None = None,
        offsets: Sequence[int] = (),  # steps ahead whose observations the loss asks for; default the scope
        needs_policy: bool = False,  # whether the loss asks `propose`
        next_chunks: bool = False,  # whether the loss asks for the chunks recorded at `offsets`
        after_update: Callable[[ChunkCritic], None] | None = None,  # instead of averaging by config.tau
        weight_decay: float = 0.0,  # decoupled (AdamW)
    ) -> None:
        super().__init__()
        self.config, self.spec, self.statistics, self.tasks = config, spec, dict(statistics), tuple(tasks)
        self.scope = config.scope or spec.horizon
        _check(config, spec)
        self.gamma, self.offsets = config.gamma, tuple(offsets) or (self.scope,)
        self.actions = Normalizer.of(statistics, "action", "mean_std")
        with seeded_weights(config.seed):
            self.encoder = critic_encoder(spec, statistics, config.encoder)
            for name, network in networks(self).items():
                self.add_module(name, network)
            if config.encoder.taco:
                steps = self.scope if self.scope in self.offsets else min(self.offsets)
                self.taco = Taco(self.encoder.features, steps, spec)
        self.target = nn.ModuleDict({name: frozen_copy(getattr(self, name)) for name in averaged})
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # updates made
        self.proposes = needs_policy  # whether training runs the policy for its chunks, and not for its eyes alone
        self.needs_policy, self._policy = needs_policy or config.encoder.source == "policy", ()
        self.next_chunks = next_chunks
        self._loss, self._values, self._after_update = loss, values, after_update or average_targets
        self._noise_values = noise_values
        self._weight_decay = weight_decay
        self.optimizer: torch.optim.Optimizer | None = None  # made at the first update, on the device of that time
        self.before_step: Callable[[Tensor, Tensor], None] | None = None  # (loss, gradient norm); refuses by raising

    # -- the Critic protocol -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, observation: Observation, policy_context: Context | None = None) -> Features:
        """The critic's own features, or with `encoder.source=policy` what it makes of the policy's."""
        if self.config.encoder.source == "own":
            return Features(self.encoder(to_tensors(observation, self.device)))
        if policy_context is None:
            raise ValueError("policy_context: expected the policy's (encoder.source=policy), got none")
        return Features(self.encoder(policy_context.value))

    def score(self, context: Features, chunks: Tensor, lengths: Tensor | None = None) -> Scores:
        """chunks float32[B, N, H, A] in spec units; differentiable with respect to them."""
        batch, n = chunks.shape[:2]
        leading = self.actions.normalize(hold_last(chunks, lengths, self.scope).flatten(0, 1))
        return self._scores(self.values(context.repeat(n).value, leading).unflatten(1, (batch, n)))

    def score_noise(self, context: Features, noise: Tensor, time: Tensor | None = None) -> Scores:
        """What the policy would make of noise float32[B, N, H, A], judged before it does; no part of the protocol.

        Noise is what `policy.sample` takes; with time [B, N] in [0, 1], x at that flow time in the critic's units.
        Raises ValueError where this critic judges finished chunks only.
        """
        if self._noise_values is None:
            raise ValueError("score_noise: expected a critic of noise (noise_critic, faster, hume), got one of chunks")
        batch, n = noise.shape[:2]
        time = None if time is None else time.flatten()
        return self._scores(
            self._noise_values(self, context.repeat(n).value, noise.flatten(0, 1), time).unflatten(1, (batch, n))
        )

    def _scores(self, values: Tensor) -> Scores:
        """values [E, B, N]."""
        value = self.pessimistic(values)
        return Scores(value, spread(values), torch.ones_like(value, dtype=torch.bool))

    def loss(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, Metrics]:
        loss, metrics = self._loss(self, batch, generator)
        if self.config.encoder.taco:
            metrics = {**metrics, "taco": taco_loss(self, batch, generator)}
            loss = loss + self.config.encoder.taco * metrics["taco"]
        if (regularizer := getattr(self.config, "regularizer", None)) is not None:
            extra, sizes = penalty(self, regularizer, batch, generator)
            loss, metrics = loss + extra, {**metrics, **sizes}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def update(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> Metrics:
        """One gradient step and one step of the averaged networks."""
        if self.optimizer is None:
            self.make_optimizer()
        loss, metrics = self.loss(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = self.optimizer.param_groups[0]["params"]
        average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        if self.before_step is not None:
            self.before_step(loss.detach(), norm.detach())
        self.optimizer.step()
        self.step += 1
        self._after_update(self)
        return {"loss": loss.detach(), "grad_norm": norm.detach(), **metrics}

    # -- what pages are written with ---------------------------------------------------------------------------------

    def values(self, features: Tensor, chunk: Tensor) -> Tensor:
        """(features [rows, F], chunk [rows, scope, A], normalized) -> [E, rows]."""
        return self.q(features, chunk) if self._values is None else self._values(self, features, chunk)

    def pessimistic(self, values: Tensor) -> Tensor:
        """values [E, ...] -> [...] the way the config says."""
        return aggregate(values, self.config.aggregate, self.config.rho)

    def see(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(features [B, F], chunk [B, scope, A] normalized); images are shifted at random while training."""
        return self.features(batch.observation, generator), self.actions.normalize(batch.chunks[:, : self.scope])

    @torch.no_grad()
    def ahead(self, batch: ChunkBatch, k: int, generator: torch.Generator | None = None) -> Tensor:
        """Features [B, F] of the observation k steps later, without gradients."""
        return self.features(batch.next[k], generator)

    def features(self, observation: TensorObservation, generator: torch.Generator | None = None) -> Tensor:
        if self.config.encoder.source == "policy":
            with torch.no_grad():
                seen = self.policy.encoder(observation)
            return self.encoder(seen)
        return self.encoder(self.encoder.augment(observation, generator) if self.training else observation)

    def propose(self, observation: TensorObservation, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n chunks [B, n, scope, A], normalized, of the policy this critic is trained for."""
        chunks = propose(self.policy, observation, n, generator, self.precision)
        return self.actions.normalize(chunks[:, :, : self.scope])

    @property
    def precision(self) -> str:
        """Of candidates and their values (networks/packed.py), where the page lets it be chosen."""
        return getattr(self.config, "precision", "off")

    @property
    def policy(self) -> ChunkPolicy:
        """Raises ValueError where nobody attached one."""
        if not self._policy:
            raise ValueError(
                "this critic's backup asks the policy: expected one, got none; train with --base=CHECKPOINT of the "
                "policy that will be steered, or train both with --policy.type"
            )
        return self._policy[0]

    def attach(self, policy: ChunkPolicy) -> None:
        """The policy whose chunks the backup values. It is not part of the critic and not saved with it."""
        self.spec.check(policy.spec, "the policy")
        self.check_policy(policy)
        self._policy = (policy,)  # a tuple, so that torch does not take it for a submodule

    def check_policy(self, policy: ChunkPolicy) -> None:
        """Raise ValueError where this critic sees through the eyes of another policy."""
        check_policy(self.config.encoder, policy)

    def make_optimizer(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self._weight_decay else torch.optim.Adam
        self.optimizer = kind(self.trained, lr=self.config.lr, weight_decay=self._weight_decay, fused=True)
        return self.optimizer

    @property
    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def device(self) -> torch.device:
        return self.step.device


# theta_bar <- theta_bar + tau (theta - theta_bar)
def average_targets(critic: ChunkCritic) -> None:
    for name, network in critic.target.items():
        lerp_(network, getattr(critic, name), critic.config.tau)


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


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def _check(config: Any, spec: Spec) -> None:
    one_of("aggregate", config.aggregate, AGGREGATES)
    if spec.horizon < 1 or not 0 <= config.scope <= spec.horizon:
        raise ValueError(
            f"scope: expected 0 to the horizon of {spec.horizon} steps (at least 1), got {config.scope}; "
            "choose the horizon with spec.choose(horizon=...)"
        )
