"""E members that judge (features, chunk) or features alone; the head says what their outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..networks.ensemble import EnsembleMLP
from .distribution import Distribution
from .heads import Head, Scalar, make_head

if TYPE_CHECKING:
    from .chunk_critic import ChunkCritic


class QNetwork(nn.Module):
    """(features [rows, F], chunk [rows, k, A], normalized) -> [E, rows]."""

    def __init__(
        self,
        features: int,
        scope: int,
        action_dim: int,
        members: int,
        hidden: Sequence[int],
        layer_norm: bool = True,
        head: Head | None = None,  # None: one number, squared error
    ) -> None:
        super().__init__()
        self.head = head or Scalar()
        inputs = features + scope * action_dim + self.head.extra
        self.net = EnsembleMLP(members, inputs, hidden, self.head.outputs, layer_norm)

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        return self.head.mean(self.net, _join(features, chunk))

    def distribution(self, features: Tensor, chunk: Tensor, generator: torch.Generator | None = None) -> Distribution:
        """atoms [E, rows, K]"""
        return self.head.distribution(self.net, _join(features, chunk), generator)

    def regress(
        self, features: Tensor, chunk: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(mean [E, rows], loss [E, rows]) against atoms [rows, K]."""
        return self.head.regress(self.net, _join(features, chunk), target.detach(), generator)


class VNetwork(nn.Module):
    """features [rows, F] -> [E, rows]; one member unless asked for more."""

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        layer_norm: bool = True,
        head: Head | None = None,
        members: int = 1,
    ) -> None:
        super().__init__()
        self.head = head or Scalar()
        self.net = EnsembleMLP(members, features + self.head.extra, hidden, self.head.outputs, layer_norm)

    def forward(self, features: Tensor) -> Tensor:
        return self.head.mean(self.net, features)

    def distribution(self, features: Tensor, generator: torch.Generator | None = None) -> Distribution:
        return self.head.distribution(self.net, features, generator)

    def regress(
        self, features: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.head.regress(self.net, features, target.detach(), generator)


def q_alone(critic: ChunkCritic) -> dict[str, nn.Module]:
    """The networks of a page that trains one Q, with its config's sizes and head."""
    c, head = critic.config, make_head(critic.config.head, critic.statistics)
    sizes = critic.encoder.features, critic.scope, critic.spec.action_dim
    return {"q": QNetwork(*sizes, c.members, c.hidden, c.layer_norm, head)}


def _join(features: Tensor, chunk: Tensor) -> Tensor:
    return torch.cat([features, chunk.flatten(1)], -1)
