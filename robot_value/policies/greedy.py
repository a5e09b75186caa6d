"""A policy that is a critic: it acts by a coarse-to-fine critic's own decoding (CQN-AS, ARSQ), without an actor.

chunk = zoom: bin = argmax of the values, or a draw from softmax(values / temperature), level by level
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import draccus
import torch
from torch import Tensor, nn

from .. import components
from ..flow import Guide
from ..normalize import Normalizer, Statistics
from ..types import Features, Observation, Spec
from ._chunks import check_noise, clip


@dataclass(frozen=True)
class Config:
    critic: str = "cqn_as"  # type of the critic; its averaged `bins` network decodes
    settings: str = "{}"  # the critic's config as JSON; `acting` fills it in
    temperature: float = 0.0  # in the unit of the values; 0 is greedy, ARSQ's own is its alpha

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> GreedyPolicy:
        config = draccus.decode(components.load("critics", self.critic).Config, json.loads(self.settings))
        return GreedyPolicy(self, config.build(spec, statistics, tasks))


def acting(critic: nn.Module, temperature: float = 0.0) -> GreedyPolicy:
    """The policy of a trained critic; they share their weights."""
    config = Config(type(critic.config).__module__, json.dumps(draccus.encode(critic.config)), temperature)
    return GreedyPolicy(config, critic)


def decodes(model: nn.Module) -> bool:
    """Whether it is a critic that can act by itself."""
    return "bins" in getattr(model, "target", {})


class GreedyPolicy(nn.Module):
    def __init__(self, config: Config, critic: Any) -> None:
        super().__init__()
        if not decodes(critic):
            raise ValueError(f"critic: expected a coarse-to-fine one (cqn_as, arsq), got {config.critic}")
        self.config, self.critic, self.spec = config, critic, critic.spec
        self.statistics, self.tasks = critic.statistics, critic.tasks
        self.box = Normalizer.of(critic.statistics, "action", "min_max")  # spec units <-> [-1, 1]
        self.register_buffer("low", torch.from_numpy(self.spec.low), persistent=False)
        self.register_buffer("high", torch.from_numpy(self.spec.high), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        return self.critic.encoder

    def encode(self, observation: Observation) -> Features:
        return self.critic.encode(observation)

    @torch.no_grad()
    def sample(
        self,
        context: Features,
        n: int,
        noise: Tensor,  # float32[B, n, H, A], standard normal
        prefix: Tensor | None = None,  # float32[B, p, A], spec units
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chunks float32[B, n, H, A] in spec units; steps beyond the critic's scope repeat, and lengths leave them out.

        Noise decides the draw (its quantile picks the bins); at temperature 0 all n are the same.
        """
        check_noise(noise, len(context.value), n, self.spec)
        if guide is not None:
            raise ValueError("guide: expected none, as bins are chosen and not denoised; use a flow policy with it")
        scope = self.critic.scope
        u = torch.special.ndtr(noise[:, :, :scope].to(self.low).double()).flatten(0, 1).clamp(0, 1 - 1e-12)
        known = None if prefix is None else prefix.to(self.low).repeat_interleave(n, 0)  # [B * n, p, A]
        begun = None if known is None else self.box.normalize(known[:, :scope])
        x = self.critic.target["bins"].decode(context.repeat(n).value, begun, u, self.config.temperature)
        held = x[:, -1:].expand(-1, self.spec.horizon - scope, -1)
        chunks = clip(self.box.unnormalize(torch.cat([x, held], 1)), self.low, self.high)
        p = 0 if known is None else known.shape[1]
        chunks = chunks if known is None else torch.cat([known, chunks[:, p:]], 1)
        lengths = torch.full((len(noise), n), max(scope, p), dtype=torch.int64, device=chunks.device)
        return chunks.unflatten(0, (-1, n)), lengths

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        raise ValueError("greedy: there is nothing to train but its critic; train that (--critic.type=cqn_as | arsq)")
