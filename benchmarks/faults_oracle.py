"""The independent judge: were the commands within limits? Written from their definition; shares no code with the guard.

Commands come at a nominal period dt; velocity, acceleration and jerk are differences of neighbours,
    v_t = (p_t - p_{t-1}) / dt, a_t = (v_t - v_{t-1}) / dt, j_t = (a_t - a_{t-1}) / dt,
at rest at the first one. Numbers that are not finite break every limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLACK = 1e-6  # relative, for differences of float64


@dataclass(frozen=True)
class Bounds:
    """float64[A] each; infinite where a dim has none (grippers move as they like)."""

    low: np.ndarray  # rad
    high: np.ndarray  # rad
    velocity: np.ndarray  # rad/s
    acceleration: np.ndarray  # rad/s^2
    jerk: np.ndarray  # rad/s^3


def violations(commands: np.ndarray, dt: float, bounds: Bounds) -> list[str]:
    """One line per quantity and dim that breaks its limit, naming the worst tick; commands float64[T, A]."""
    if len(wrong := np.argwhere(~np.isfinite(commands))):
        tick, dim = wrong[0]
        return [f"dim {dim} is {commands[tick, dim]} at tick {tick}"]
    found = _beyond("position", np.maximum(bounds.low - commands, commands - bounds.high) - SLACK)
    rounding = 4 * np.finfo(np.float64).eps * np.abs(commands).max(initial=1.0)
    derivative = commands
    for name in ("velocity", "acceleration", "jerk"):
        derivative = np.diff(derivative, axis=0, prepend=derivative[:1]) / dt
        rounding *= 2 / dt
        limit = getattr(bounds, name)
        allowed = np.where(np.isfinite(limit), limit * (1 + SLACK), limit)
        found += _beyond(name, np.abs(derivative) - allowed - rounding)
    return found


def strangers(received: Sequence[np.ndarray], published: Sequence[np.ndarray]) -> int:
    """Commands an arm got that the guard never published; it may miss some, newest first."""
    known = {command.tobytes() for command in published}
    return sum(command.tobytes() not in known for command in received)


def _beyond(name: str, excess: np.ndarray) -> list[str]:
    worst = {dim: int(excess[:, dim].argmax()) for dim in np.flatnonzero((excess > 0).any(0))}
    return [f"dim {dim}: {name} {excess[tick, dim]:.4g} too high at tick {tick}" for dim, tick in worst.items()]
