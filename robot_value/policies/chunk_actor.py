"""What policies that stand on a cloned flow have in common: the flow, their own networks, and the critic they climb.

A policy is a page beside this file: a Config with `base`, the networks it adds, how it acts, and its loss.

    def build(self, spec, statistics, tasks=()):
        return ChunkActor(self, spec, statistics, tasks, networks=networks, act=act, loss=loss)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..flow import Guide
from ..networks.ema import frozen_copy
from ..networks.packed import packed
from ..networks.seeding import normal, seeded_weights
from ..normalize import Normalizer, Statistics
from ..ranks import shared
from ..types import Features, Observation, Spec
from . import flow
from ._chunks import check_noise, full_lengths

if TYPE_CHECKING:
    from ..protocols import Critic
    from ..sampling import ChunkBatch, TensorObservation

Metrics = dict[str, Tensor]  # detached numbers by name
# (actor, context, noise [B, n, H, A], prefix, guide) -> chunks [B, n, H, A] in spec units
Act = Callable[["ChunkActor", Features, Tensor, "Tensor | None", "Guide | None"], Tensor]


class ActorConfig(Protocol):
    """What the Config of every page says."""

    base: flow.Config  # the flow it stands on; --base=CHECKPOINT brings a trained one
    seed: int  # of the added networks' initial weights, where there are any


class ChunkActor(nn.Module):
    """A ChunkPolicy. Checkpoints hold the flow too, so that they can be deployed alone."""

    def __init__(
        self,
        config: Any,  # ActorConfig
        spec: Spec,
        statistics: Mapping[str, Statistics],
        tasks: Sequence[str] = (),
        *,
        act: Act,
        loss: Callable[[ChunkActor, ChunkBatch, torch.Generator | None], tuple[Tensor, Metrics]],
        networks: Callable[[ChunkActor], Mapping[str, nn.Module]] | None = None,  # with weights drawn from config.seed
        act_in_backup: Act | None = None,  # the policy whose chunks the critic's backup values, where it is another one
        freezes_base: bool = True,  # whether a base that comes trained stays as it is, or is where training starts
        keeps_reference: bool = False,  # whether `reference` stays the flow that training started from
    ) -> None:
        super().__init__()
        self.config, self.spec, self.statistics, self.tasks = config, spec, dict(statistics), tuple(tasks)
        self.base = config.base.build(spec, statistics, tasks)
        self.reference = frozen_copy(self.base) if keeps_reference else None
        if networks is not None:
            with seeded_weights(config.seed):
                for name, network in networks(self).items():
                    self.add_module(name, network)
        self._act, self._act_in_backup, self._loss, self._freezes_base = act, act_in_backup, loss, freezes_base
        self.register_buffer("adopted", torch.tensor(False))  # saved: training that goes on knows what came trained
        self._critic = _Borrowed()

    # -- the ChunkPolicy protocol ------------------------------------------------------------------------------------

    def encode(self, observation: Observation) -> Features:
        return self.base.encode(observation)

    @torch.no_grad()
    def sample(
        self,
        context: Features,
        n: int,
        noise: Tensor,  # float32[B, n, H, A], standard normal
        prefix: Tensor | None = None,  # float32[B, p, A], spec units
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chunks float32[B, n, H, A] in spec units, NaN where pruned or not finite, and lengths int64[B, n]."""
        check_noise(noise, len(context.value), n, self.spec)
        chunks = self._act(self, context, noise.to(self.base.low), prefix, guide)
        return chunks, full_lengths(chunks)

    def loss(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> tuple[Tensor, Metrics]:
        loss, metrics = self._loss(self, batch, generator)
        return loss, {name: value.detach() for name, value in ({"loss": loss} | metrics).items()}

    # -- what training brings ----------------------------------------------------------------------------------------

    def attach(self, critic: Critic) -> None:
        """The critic that the loss asks. It is not part of the policy and not saved with it."""
        self.spec.check(critic.spec, "the critic")
        self._critic.model = critic

    @property
    def target_policy(self) -> ChunkActor | _Target:
        """What the critic is attached to in training."""
        return self if self._act_in_backup is None else _Target(self, self._act_in_backup)

    def adopt(self, base: flow.FlowPolicy) -> None:
        """Take over a trained flow's weights; `config.base` must be its config."""
        if getattr(base, "config", None) != self.config.base:
            expected, got = self.config.base, getattr(base, "config", type(base).__name__)
            raise ValueError(f"base: expected a flow policy with {expected}, got {got}")
        self.base.load_state_dict(base.state_dict())
        if self.reference is not None:
            self.reference.load_state_dict(base.state_dict())
        self.adopted.fill_(True)
        self._settle()

    def load_state_dict(self, tensors: Mapping[str, Tensor], *args: Any, **options: Any) -> Any:
        """A checkpoint of a base that came trained keeps it as it was; one from before that was saved clones it."""
        loaded = super().load_state_dict({"adopted": torch.tensor(False), **tensors}, *args, **options)
        self._settle()
        return loaded

    def _settle(self) -> None:
        if self.adopted and self._freezes_base:
            self.base.requires_grad_(False)

    # -- what pages are written with ---------------------------------------------------------------------------------

    @property
    def critic(self) -> Critic:
        """Raises ValueError where nobody attached one."""
        if self._critic.model is None:
            raise ValueError(
                "this policy's loss asks a critic: expected one, got none; train both with --critic.type, or give a "
                "trained one by --trained_critic=CHECKPOINT"
            )
        return self._critic.model

    @property
    def encoder(self) -> nn.Module:
        """The flow's; only cloning trains it."""
        return self.base.encoder

    @property
    def actions(self) -> Normalizer:
        return self.base.actions

    def features(self, batch: ChunkBatch) -> Features:
        with torch.no_grad():
            return Features(self.encoder(batch.observation))

    def draw(self, batch: ChunkBatch, generator: torch.Generator | None, n: int = 1) -> Tensor:
        """Noise float32[B, n, H, A]."""
        return normal((len(batch.chunks), n, *batch.chunks.shape[1:]), batch.chunks.device, generator)

    def clone(self, batch: ChunkBatch, generator: torch.Generator | None) -> Tensor:
        """The flow's own loss; 0 where it came trained and stays as it is."""
        if self.adopted and self._freezes_base:
            return torch.zeros((), device=batch.chunks.device)
        return self.base.loss(batch, generator)[0]

    def teach(self, context: Features, noise: Tensor) -> Tensor:
        """The flow's chunks [B, n, H, A] from noise of that shape, with config.precision's arithmetic."""
        with packed(self.base, getattr(self.config, "precision", "off")):
            return self.base.sample(context, noise.shape[1], noise)[0]

    def judge(self, batch: ChunkBatch, chunks: Tensor, generator: torch.Generator | None) -> Tensor:
        """chunks [B, n, H, A] in spec units -> their values [B, n], differentiable in the chunks alone."""
        with still(self.critic):
            return self.critic.score(self.seen(batch.observation, generator), chunks).value

    def seen(self, observation: TensorObservation, generator: torch.Generator | None) -> Features:
        """The observation as the critic sees it."""
        with torch.no_grad():
            return Features(self.critic.features(observation, generator))


@dataclass(frozen=True)
class _Target:
    """As much of a ChunkPolicy as a backup needs."""

    actor: ChunkActor
    act: Act

    @property
    def spec(self) -> Spec:
        return self.actor.spec

    @property
    def version(self) -> str:
        return getattr(self.actor, "version", "")

    @property
    def encoder(self) -> nn.Module:
        return self.actor.encoder

    def modules(self) -> Iterator[nn.Module]:
        return self.actor.modules()

    def sample(self, context: Features, n: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        chunks = self.act(self.actor, context, noise, None, None)
        return chunks, full_lengths(chunks)


class _Borrowed:
    """A reference that is no submodule, is not saved, and that a copy of its owner (EMA) shares."""

    model: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Borrowed:
        return self


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Graphs made inside reach through the module, not into its weights."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def row_mean(values: Tensor, weight: Tensor) -> Tensor:
    """values [B, ...], weight [B]: mean over everything, rows by weight."""
    rows = values.flatten(1).mean(1) if values.ndim > 1 else values
    return (rows * weight).sum() / shared(weight.sum()).clamp_min(1e-12)
