"""How plausible a chunk is before anybody looks: log p(a_{0:k}), an action prior that no observation conditions.

    L = -log p(a),   p(a) = sum_j w_j N(a; m_j, diag sigma_j^2)                                    value = log p(a)

A mixture of Gaussians over recorded chunks, fitted by gradient. After the unconditioned action prior of A^2 (Xu et al.
2025, arXiv 2503.09423), there a grasp model that does not know the instruction: what robots do at all, to be weighed
against what an observation asks for. Defining term: the missing condition. A density given s is the policy's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..sampling import TensorObservation
from ..types import Spec
from .backups import weighted_mean
from .chunk_critic import ChunkCritic, Metrics

if TYPE_CHECKING:
    from ..sampling import ChunkBatch


@dataclass(frozen=True)
class Config:
    gamma: ClassVar[float] = 0.99  # of the sampler's returns, which a density never asks for
    encoder: ClassVar[EncoderConfig] = EncoderConfig()  # what every critic has; here nothing is seen
    scope: int = 0  # leading chunk steps whose density counts, 0 is the whole horizon
    components: int = 32  # Gaussians per mixture; own choice, the manners of moving there are
    floor: float = 0.05  # least standard deviation, share of the action's own: an on/off gripper has none
    members: int = 2  # mixtures from different starts; their spread is what the fit leaves open
    aggregate: str = "mean"  # mean | min | subset_min of log p over the members
    rho: float = 0.0  # with mean: subtract rho * std over the members
    lr: float = 3e-3  # Adam learning rate; means and widths are its units, so more than for networks
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial means

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        if self.components < 1 or self.floor <= 0:
            got = f"{self.components} components and floor {self.floor}"
            raise ValueError(f"expected at least 1 component and a floor > 0, got {got}")
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, values=log_density, loss=loss)


class Blind(nn.Module):
    """An encoder without features: what is not seen cannot condition, and no image is encoded for it."""

    features = 0

    def forward(self, observation: TensorObservation) -> Tensor:
        return observation.state.new_zeros(len(observation.state), 0)

    def augment(self, observation: TensorObservation, generator: torch.Generator | None) -> TensorObservation:
        return observation


class Mixtures(nn.Module):
    """chunk [rows, k, A], normalized -> log p [E, rows], per normalized unit."""

    def __init__(self, members: int, components: int, numbers: int, floor: float) -> None:
        super().__init__()
        shape, self.floor = (members, components, numbers), floor
        self.logits = nn.Parameter(torch.zeros(shape[:2]))
        # |m_j|^2 differs by about 1 between components, so that none starts out far likelier than the others
        self.means = nn.Parameter(torch.randn(shape) * numbers**-0.25)
        self.log_stds = nn.Parameter(torch.zeros(shape))

    def forward(self, chunk: Tensor) -> Tensor:
        widths = self.log_stds.exp() + self.floor
        parts = Independent(Normal(self.means, widths, validate_args=False), 1, validate_args=False)
        mixture = MixtureSameFamily(Categorical(logits=self.logits), parts, validate_args=False)  # NaN gives NaN
        return mixture.log_prob(chunk.flatten(1)[:, None].expand(-1, len(self.logits), -1)).T


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    """`encoder` takes the place of the one that every critic has."""
    c, numbers = critic.config, critic.scope * critic.spec.action_dim
    return {"encoder": Blind(), "mixtures": Mixtures(c.members, c.components, numbers, c.floor)}


def log_density(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    return critic.mixtures(chunk)


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    density = critic.mixtures(critic.see(batch, generator)[1])  # [E, B]
    return -weighted_mean(density, batch.weight), {"log_density": density.mean()}
