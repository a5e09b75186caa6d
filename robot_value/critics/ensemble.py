"""How E opinions become one: pessimism against values that only one member believes in.

mean        mean_i Q_i - rho std_i Q_i     (Q-chunking with rho = 0, FEdit with rho = 0.5)
min         min_i Q_i                      (TD3, IQL, V-GPS)
subset_min  min over a random `subset` of members (REDQ, RLPD); scores take its expectation, so they are not random
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distribution import Distribution

AGGREGATES = ("mean", "min", "subset_min")


def aggregate(values: Tensor, how: str, rho: float = 0.0, subset: int = 2) -> Tensor:
    """values [E, ...] -> [...]."""
    if how == "min":
        return values.amin(0)
    if how == "mean":
        return values.mean(0) - rho * spread(values) if rho else values.mean(0)
    if how == "subset_min":
        return expected_subset_min(values, subset)
    raise ValueError(f"aggregate: expected one of {', '.join(AGGREGATES)}, got {how!r}")


# E min over a random m-subset of E = sum_i Q_(i) C(E - i, m - 1) / C(E, m), Q_(1) <= ... <= Q_(E)
def expected_subset_min(values: Tensor, subset: int) -> Tensor:
    """values [E, ...] -> [...]."""
    return torch.tensordot(subset_shares(len(values), subset, values), values.sort(0).values, 1)


def subset_shares(members: int, subset: int, like: Tensor) -> Tensor:
    """[members]: how often the i-th smallest is the least of a random subset; flipped, how often it is the largest."""
    _check_subset(members, subset)
    share = [math.comb(members - i, subset - 1) / math.comb(members, subset) for i in range(1, members + 1)]
    return torch.tensor(share, dtype=like.dtype, device=like.device)


def pool(
    members: Distribution,  # atoms [E, rows, K]
    how: str,
    rho: float = 0.0,
    subset: int = 2,
    generator: torch.Generator | None = None,
) -> Distribution:
    """One per row, atoms [rows, K']: the least-mean member, or the mixture of all, moved down by rho std."""
    mean = members.mean  # [E, rows]
    if how == "mean":
        lower = rho * spread(mean) if rho else torch.zeros_like(mean[0])
        atoms = members.atoms.movedim(0, -2).flatten(-2) - lower[..., None]
        return Distribution(atoms, members.weights.movedim(0, -2).flatten(-2) / len(mean))
    if how == "subset_min":
        _check_subset(len(mean), subset)
        device = mean.device if generator is None else generator.device
        chosen = torch.randperm(len(mean), generator=generator, device=device)[:subset].to(mean.device)
        members, mean = Distribution(members.atoms[chosen], members.weights[chosen]), mean[chosen]
    elif how != "min":
        raise ValueError(f"aggregate: expected one of {', '.join(AGGREGATES)}, got {how!r}")
    least = mean.argmin(0)[None, ..., None].expand_as(members.atoms[:1])
    return Distribution(members.atoms.gather(0, least)[0], members.weights.gather(0, least)[0])


def spread(values: Tensor) -> Tensor:
    """Population standard deviation over the members: 0 for a single one."""
    return values.std(0, correction=0)


def _check_subset(members: int, subset: int) -> None:
    if not 1 <= subset <= members:
        raise ValueError(f"subset: expected 1 to the {members} there are, got {subset}")
