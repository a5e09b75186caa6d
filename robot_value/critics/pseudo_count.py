"""How often something like this chunk was recorded: a coin-flip network (Lobel et al. 2023, arXiv 2306.03186).

    L = mean_i (f_i(s, a_{0:k}) - c_i)^2,   c in {-1, +1}^d, drawn once per recorded window
    f = f_hat + g,   g random and frozen with mean_i g_i^2 = 1          value = -log mean_i f_i^2 ~ log n

Where n windows agree, the best f is the mean of their coins, and its square is 1 / n on average; where there are none,
g makes it 1. TACO (arXiv 2512.02834) executes the candidate of the highest count: anti-exploration at test time.
Defining term: coins that stay with their window. Tossed anew at every visit, they count updates instead of data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.ensemble import EnsembleMLP
from ..networks.observation import EncoderConfig
from ..normalize import Statistics
from ..types import Spec
from .backups import weighted_mean
from .chunk_critic import ChunkCritic, Metrics

if TYPE_CHECKING:
    from ..sampling import ChunkBatch

WORD = 64  # bits of a hash, a coin each


@dataclass(frozen=True)
class Config:
    gamma: ClassVar[float] = 0.99  # of the sampler's returns, which a count never asks for
    scope: int = 0  # leading chunk steps that are counted, 0 is the whole horizon
    coins: int = 64  # d per member, at most 64; a count is off by sqrt(2 / d) of itself, here 18 %
    members: int = 2  # networks, each with coins of its own; their spread is how far off log n is
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers, of f_hat and of g
    layer_norm: bool = True  # LayerNorm in f_hat; as in the other pages
    aggregate: str = "mean"  # mean | min | subset_min of log n over the members
    rho: float = 0.0  # with mean: subtract rho * std over the members
    lr: float = 3e-4  # Adam learning rate
    grad_clip: float = 10.0  # largest gradient norm
    seed: int = 0  # of the initial weights
    encoder: EncoderConfig = EncoderConfig()  # how observations become features; TACO takes the policy's

    def build(self, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str] = ()) -> ChunkCritic:
        if not 1 <= self.coins <= WORD:
            raise ValueError(f"coins: expected 1 to {WORD}, got {self.coins}; more members toss more coins")
        return ChunkCritic(self, spec, statistics, tasks, networks=networks, values=log_count, loss=loss)


class CoinNetwork(nn.Module):
    """(features [rows, F], chunk [rows, k, A], normalized) -> f [E, rows, d]; f = g before training."""

    def __init__(self, inputs: int, coins: int, members: int, hidden: Sequence[int], layer_norm: bool) -> None:
        super().__init__()
        self.coins = coins
        self.net = EnsembleMLP(members, inputs, hidden, coins, layer_norm)
        self.prior = EnsembleMLP(members, inputs, hidden, coins, layer_norm=False).requires_grad_(False)
        nn.init.zeros_(self.net.weights[-1])
        nn.init.zeros_(self.net.biases[-1])
        for weight, bias in zip(self.prior.weights, self.prior.biases, strict=True):
            weight.data.mul_(math.sqrt(6))  # He et al.'s variance; a g that is almost linear is unlearned everywhere
            nn.init.zeros_(bias)

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        x = torch.cat([features, chunk.flatten(1)], -1)
        return self.net(x) + F.layer_norm(self.prior(x), (self.coins,), eps=1e-12)


def networks(critic: ChunkCritic) -> dict[str, nn.Module]:
    c, inputs = critic.config, critic.encoder.features + critic.scope * critic.spec.action_dim
    return {"f": CoinNetwork(inputs, c.coins, c.members, c.hidden, c.layer_norm)}


# log n = -log mean_i f_i^2
def log_count(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    """[E, rows]; 0 is as new as what was seen once."""
    return -critic.f(features, chunk).square().mean(-1).clamp_min(1e-12).log()


def loss(critic: ChunkCritic, batch: ChunkBatch, generator: torch.Generator | None) -> tuple[Tensor, Metrics]:
    features, chunk = critic.see(batch, generator)
    f = critic.f(features, chunk)  # [E, B, d]
    error = (f - tosses(batch.index, len(f), critic.config.coins)).square().mean(-1)
    return weighted_mean(error, batch.weight), {"log_count": -f.square().mean(-1).log().mean()}


def tosses(index: Tensor, members: int, coins: int) -> Tensor:
    """The coins of windows int64[B], float32[E, B, d] of -1 and +1: a hash of (window, member), a bit per coin."""
    member, bit = (torch.arange(n, device=index.device) for n in (members, coins))
    word = _mixed(_mixed(index) + member[:, None])[..., None]
    return 2.0 * ((word >> bit) & 1) - 1


# SplitMix64's finalizer (Steele et al. 2014) on 64-bit words that wrap around
def _mixed(word: Tensor) -> Tensor:
    word = word + _signed(0x9E3779B97F4A7C15)
    word = (word ^ _shifted(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shifted(word, 27)) * _signed(0x94D049BB133111EB)
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """To the right without the sign, which torch would copy in."""
    return (word >> bits) & ((1 << (WORD - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << WORD)
