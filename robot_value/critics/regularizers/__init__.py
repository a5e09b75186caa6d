"""Penalties that any critic can add to its loss by a weight; an algorithm that is defined by one calls it directly.

Each penalty is a function in a file of this folder, with its formula and paper. `penalty` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...sampling import bootstrap, returns
from ..backups import weighted_mean
from . import geometry, lipschitz, representation, robust
from .bisimulation import bisimulation
from .chunks import judge, random_chunks
from .cql import cql, csve
from .orthogonal import sideways

if TYPE_CHECKING:
    from ...sampling import ChunkBatch
    from ..chunk_critic import ChunkCritic


@dataclass(frozen=True)
class RegularizerConfig:
    """All off by default. The weights' sensible size depends on the size of returns: look at the metrics first."""

    cql: float = 0.0  # random chunks down, recorded ones up (CQL; its alpha, 5 in V-GPS)
    csve: float = 0.0  # values of perturbed observations down, of recorded ones up (CSVE)
    smoothness: float = 0.0  # the value must not change with a perturbed observation (RO2O, 1e-4 there)
    uncertainty: float = 0.0  # random chunks down by the ensemble's standard deviation (RO2O)
    margin: float = 0.0  # random chunks at most the recorded one's value less slope * distance (VGAS)
    rank: float = 0.0  # of two random chunks the nearer one is better by slope * difference of distances (VGAS)
    co_adaptation: float = 0.0  # phi(s, a) . phi(s', a') (DR3, 0.001 to 0.3 there)
    singular_values: float = 0.0  # largest less smallest squared singular value of phi (Kumar et al. 2021, 0.001)
    gradient: float = 0.0  # |dQ/da| above `limit`
    spectral: float = 0.0  # squared spectral norms of the weights
    orthogonal: float = 0.0  # learn from the next state at right angles (ODICE's eta, 0.2 to 1 there)
    bisimulation: float = 0.0  # features as far apart as rewards and futures; needs an encoder with weights
    samples: int = 4  # chunks, or perturbed observations, per row
    epsilon: float = 0.01  # reach of perturbed observations, in features (standard deviations of a state); RO2O
    slope: float = 5.0  # value lost per standard deviation of distance from the recorded chunk; VGAS
    limit: float = 1.0  # free slope of the gradient penalty, value per standard deviation of the actions


@dataclass(frozen=True)
class _Given:
    """What every penalty is computed from."""

    critic: ChunkCritic
    config: RegularizerConfig
    batch: ChunkBatch
    generator: torch.Generator | None
    features: Tensor  # [B, F], of the observation
    chunk: Tensor  # [B, k, A], recorded, normalized


def penalty(
    critic: ChunkCritic, config: RegularizerConfig, batch: ChunkBatch, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(weighted sum of all penalties that are on, each one's own size); encodes the batch only if one is on."""
    weights = {name: getattr(config, name) for name in TERMS if getattr(config, name)}
    if not weights:
        return torch.zeros((), device=critic.device), {}
    given = _Given(critic, config, batch, generator, *critic.see(batch, generator))
    terms = {name: _mean(TERMS[name](given), batch.weight) for name in weights}
    total = sum(weights[name] * term for name, term in terms.items())
    return total, {f"{name}_penalty": term.detach() for name, term in terms.items()}


def _cql(g: _Given) -> Tensor:
    return cql(_recorded(g), judge(g.critic.values, g.features, _random(g)))


def _csve(g: _Given) -> Tensor:
    rows = robust.perturbed(g.features, g.config.epsilon, g.config.samples, g.generator)
    chunk = g.chunk.repeat(g.config.samples, 1, 1)
    others = _state_value(g.critic, rows, chunk).unflatten(1, (g.config.samples, -1)).mean(1)
    return csve(_state_value(g.critic, g.features, g.chunk), others)


def _smoothness(g: _Given) -> Tensor:
    rows = robust.perturbed(g.features, g.config.epsilon, g.config.samples, g.generator)
    return robust.smoothness(_recorded(g), g.critic.values(rows, g.chunk.repeat(g.config.samples, 1, 1)))


def _uncertainty(g: _Given) -> Tensor:
    return robust.uncertainty(judge(g.critic.values, g.features, _random(g)), alpha=1.0).mean(-1)


def _margin(g: _Given) -> Tensor:
    others, target = _random(g), g.critic.pessimistic(_recorded(g)).detach()
    values = judge(g.critic.values, g.features, others)
    return geometry.margin(values, target, geometry.distance(g.chunk, others), g.config.slope)


def _rank(g: _Given) -> Tensor:
    others = _random(g)
    values = judge(g.critic.values, g.features, others)
    return geometry.rank(values, geometry.distance(g.chunk, others), g.config.slope)


def _co_adaptation(g: _Given) -> Tensor:
    following = g.critic.ahead(g.batch, _ahead(g), g.generator)
    return representation.co_adaptation(_phi(g, g.features, g.chunk), _phi(g, following, _next_chunk(g)))


def _singular_values(g: _Given) -> Tensor:
    return representation.singular_values(_phi(g, g.features, g.chunk))


def _gradient(g: _Given) -> Tensor:
    return lipschitz.gradient_penalty(g.critic.values, g.features, g.chunk, g.config.limit)


def _spectral(g: _Given) -> Tensor:
    return sum(lipschitz.spectral_penalty(network) for name, network in g.critic.named_children() if name != "encoder")


def _orthogonal(g: _Given) -> Tensor:
    k, gamma = _ahead(g), g.critic.gamma
    here = _state_value(g.critic, g.features.detach(), g.chunk)  # [E, B]
    after = _state_value(g.critic, g.critic.ahead(g.batch, k, g.generator), _next_chunk(g))
    target = returns(g.batch, gamma, k) + bootstrap(g.batch, gamma, k) * after
    forward, backward = (here - target.detach()).square().mean(), (here.detach() - target).square().mean()
    parameters = [p for name, p in g.critic.named_parameters() if p.requires_grad and not name.startswith("encoder.")]
    return sideways(forward, backward, parameters)


def _bisimulation(g: _Given) -> Tensor:
    if not any(p.requires_grad for p in g.critic.encoder.parameters()):
        raise ValueError("regularizer.bisimulation: expected an encoder with weights (images), got plain states")
    k, gamma = _ahead(g), g.critic.gamma
    following = g.critic.ahead(g.batch, k, g.generator)
    return bisimulation(g.features, following, returns(g.batch, gamma, k), bootstrap(g.batch, gamma, k))


TERMS: dict[str, Callable[[_Given], Tensor]] = {
    "cql": _cql,
    "csve": _csve,
    "smoothness": _smoothness,
    "uncertainty": _uncertainty,
    "margin": _margin,
    "rank": _rank,
    "co_adaptation": _co_adaptation,
    "singular_values": _singular_values,
    "gradient": _gradient,
    "spectral": _spectral,
    "orthogonal": _orthogonal,
    "bisimulation": _bisimulation,
}


def _mean(term: Tensor, weight: Tensor) -> Tensor:
    """A number per row is weighed by the row's weight; a number per network is not."""
    return weighted_mean(term, weight) if term.shape[-1:] == weight.shape else term.mean()


def _recorded(g: _Given) -> Tensor:
    return g.critic.values(g.features, g.chunk)  # [E, B]


def _random(g: _Given) -> Tensor:
    return random_chunks(g.critic, len(g.chunk), g.config.samples, g.generator)


def _state_value(critic: ChunkCritic, features: Tensor, chunk: Tensor) -> Tensor:
    """V(s) [E, rows] where the critic has one, else Q of the chunk that goes with the row."""
    return critic.v(features) if hasattr(critic, "v") else critic.values(features, chunk)


def _phi(g: _Given, features: Tensor, chunk: Tensor) -> Tensor:
    """[E, B, width], what the last layer of Q reads; refuses pages whose Q has no single last layer."""
    return representation.representation(getattr(g.critic, "q", None), features, chunk)


def _ahead(g: _Given) -> int:
    """Steps to the next state: the scope, or where the page itself looks."""
    return g.critic.scope if g.critic.scope in g.critic.offsets else g.critic.offsets[0]


def _next_chunk(g: _Given) -> Tensor:
    """[B, k, A] at the next observation: the policy's where the critic has one, else the recorded chunk once more."""
    if not g.critic.proposes:
        return g.chunk
    return g.critic.propose(g.batch.next[_ahead(g)], 1, g.generator)[:, 0]
