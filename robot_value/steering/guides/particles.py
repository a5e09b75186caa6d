"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): candidates are particles, resampled by value.

Potentials G_i of r_i = Q(x_hat_i) whose product is exp(lambda r(x_1)), so that particles end as p(x_1) exp(lambda r):

    difference  G_i = exp(lambda (r_i - r_{i-1}))        max  G_i = exp(lambda max_{j<=i} r_j)
    sum         G_i = exp(lambda sum_{j<=i} r_j)         last  G = exp(lambda r(x_1)) / product of those before

A sampler that is an ODE would carry copies of a particle to one chunk. After resampling, part of the noise in every
particle of that robot is therefore drawn anew (flow.renoise), which leaves the law of x_t as it was. Candidate 0 is
the plain policy's and no particle: it has no children and is never replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...types import Steering
from ..proposal import Request
from ._resampling import DRAWS, ancestors, effective, shares
from ._value import judged

POTENTIALS = ("difference", "max", "sum")


@dataclass(frozen=True)
class Config:
    strength: float = 2.0  # lambda; normalized: per standard deviation of the candidates' values, else per value
    normalize: bool = True  # by the standard deviation at the first resampling time, the same from then on
    potential: str = "difference"  # difference | max | sum
    every: int = 1  # sampler steps between evaluations; the published f
    ess: float = 0.5  # resample below this share of effective particles; 1: at every evaluation, as published
    draw: str = "systematic"  # systematic (keeps whatever weighs 1/N or more) | multinomial (published)
    start: float = 0.3  # flow time of the first evaluation; x_hat says little about a candidate before
    churn: float = 0.5  # in [0, 1], how much of a particle's noise is new after resampling; 0: copies stay copies

    def build(self) -> Particles:
        for name, allowed in (("potential", POTENTIALS), ("draw", DRAWS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not 0 <= self.churn <= 1:
            raise ValueError(f"churn: expected a share from 0 to 1, got {self.churn}")
        if self.every < 1:
            raise ValueError(f"every: expected at least 1 sampler step, got {self.every}")
        return Particles(self)


@dataclass(frozen=True)
class Cloud:
    """What is known of B clouds of M = N - 1 particles, float64. It follows a particle when that is resampled."""

    scale: Tensor  # [B, 1], lambda per unit of value
    seen: Tensor  # [B, M], what the potential remembers of r: the last, the largest, the sum
    spent: Tensor  # [B, M], log of all potentials so far
    weight: Tensor  # [B, M], log of the potentials since the last resampling


@dataclass(frozen=True)
class Particles:
    config: Config
    uses_critic = True

    def begin(self, request: Request) -> Callable[[Tensor, float], Steering]:
        config, generators = self.config, request.generators("particles")
        cloud, before, evaluations = None, None, 0

        def steer(x_hat: Tensor, t: float) -> Steering:
            nonlocal cloud, before, evaluations
            last = before is not None and 2 * t - before > 1 - 1e-6  # another step as wide as this one ends at 1
            before = t
            if t < config.start - 1e-6 or x_hat.shape[1] == 1:
                return Steering()
            evaluations += 1
            if (evaluations - 1) % config.every and not last:
                return Steering()
            r = judged(request, x_hat[:, 1:]).double()
            cloud = weigh(cloud or form(r, config), r, config.potential, last)
            share = shares(cloud.weight)
            due = torch.full_like(share[:, 0], last, dtype=torch.bool) | (effective(share) <= config.ess * r.shape[1])
            parents = ancestors(share, due, generators, config.draw)
            if not due.any():
                return Steering()
            cloud = follow(cloud, parents, due)
            churn = 0.0 if last else config.churn
            return Steering(resample=pad(parents + 1, (1, 0)), **fresh(x_hat, due, generators, churn))

        return steer


def form(r: Tensor, config: Config) -> Cloud:
    """A new cloud with values r [B, M]; a spread that is only a float32 critic's rounding is no preference."""
    zeros, known = torch.zeros_like(r), torch.where(r.isfinite(), r, torch.nan)
    deviation = (known - known.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
    felt = deviation > 1e-6 * known.abs().nan_to_num().amax(1, keepdim=True)
    scale = torch.where(felt, config.strength / deviation, 0.0) if config.normalize else config.strength + zeros[:, :1]
    return Cloud(scale, zeros - torch.inf if config.potential == "max" else zeros, zeros, zeros)


# log G_i = lambda (what the potential makes of r_i), and at the end lambda r - (all log G so far)
def weigh(cloud: Cloud, r: Tensor, potential: str, last: bool) -> Cloud:
    """r [B, M], -inf where a particle is to die out."""
    alive = r.isfinite()
    r = torch.where(alive, r, 0.0)
    felt = {"difference": r - cloud.seen, "max": r.maximum(cloud.seen), "sum": r + cloud.seen}[potential]
    log_g = cloud.scale * r - cloud.spent if last else cloud.scale * felt
    return replace(
        cloud,
        seen=r if potential == "difference" else felt,
        spent=cloud.spent + log_g,
        weight=torch.where(alive, cloud.weight + log_g, -torch.inf),
    )


def follow(cloud: Cloud, parents: Tensor, due: Tensor) -> Cloud:
    """Every slot takes over its parent's past; where robots resampled, weights are equal again."""
    weight = torch.where(due[:, None], 0.0, cloud.weight)
    return replace(cloud, seen=cloud.seen.gather(1, parents), spent=cloud.spent.gather(1, parents), weight=weight)


def fresh(x_hat: Tensor, due: Tensor, generators: Sequence[np.random.Generator], churn: float) -> dict[str, Tensor]:
    """Noise [B, N, H, A] and churn [B, N] for the particles of the robots that resampled."""
    if not churn:
        return {}
    noise = np.zeros(x_hat.shape, np.float32)
    for row in due.nonzero()[:, 0].tolist():
        noise[row, 1:] = generators[row].standard_normal(noise[row, 1:].shape, np.float32)
    share = churn * due[:, None].expand(-1, x_hat.shape[1] - 1).to(x_hat.dtype)
    return {"noise": torch.from_numpy(noise).to(x_hat.device), "churn": pad(share, (1, 0))}
