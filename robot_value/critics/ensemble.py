"""How E opinions become one value: pessimism against values that only one member believes in."""

from __future__ import annotations

from torch import Tensor

AGGREGATES = ("min", "mean")


def aggregate(values: Tensor, how: str, rho: float = 0.0) -> Tensor:
    """values [E, ...] -> [...]: the least, or mean - rho * std (population)."""
    if how == "min":
        return values.amin(0)
    if how == "mean":
        return values.mean(0) - rho * spread(values) if rho else values.mean(0)
    raise ValueError(f"aggregate: expected one of {', '.join(AGGREGATES)}, got {how!r}")


def spread(values: Tensor) -> Tensor:
    """Population standard deviation over the members: 0 for a single one."""
    return values.std(0, correction=0)
