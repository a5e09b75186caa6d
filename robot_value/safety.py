"""The pure core of the guard process: what may be published next, whatever came in. numpy only.

One rule makes every published command safe: the next velocity is always taken from a window (`window`) that respects
velocity and acceleration limits and from which braking to rest inside the position limits stays possible. Braking is
always in the window, so a limited stop exists at any time. Jerk is not limited yet. No claim of certification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import Spec, SpecMismatch

# Commands are float32: one that misses the window by no more than this (rad or m) is moved into it, not refused.
ROUNDING = 1e-6

# No joint is there (rad or m): a number beyond this is garbage, like NaN, and nothing computed from less overflows.
ABSURD = 1e9


@dataclass(frozen=True, eq=False)
class Limits:
    """What the arm may be asked for, per joint; the driver's and the hardware's own limits lie outside these."""

    low: np.ndarray  # float64[A], rad or m
    high: np.ndarray  # float64[A], rad or m
    velocity: np.ndarray  # float64[A], rad/s or m/s
    acceleration: np.ndarray  # float64[A], rad/s^2 or m/s^2
    max_age: float = 0.05  # s, of the oldest input; older ones are stale (reliability.md, S_state)
    tolerance: float = 0.05  # rad or m, command to measured state when motion may begin
    max_blend: float = 0.5  # s, to reach a moving command from standstill

    def __post_init__(self) -> None:
        for name in ("low", "high", "velocity", "acceleration"):
            value = vector(getattr(self, name), np.size(self.low))
            if value is None:
                raise ValueError(
                    f"limits {name}: expected {np.size(self.low)} finite numbers, got {getattr(self, name)}"
                )
            object.__setattr__(self, name, value)
        for name in ("velocity", "acceleration", "max_age", "tolerance", "max_blend"):
            if not np.all(np.asarray(getattr(self, name)) > 0):
                raise ValueError(f"limits {name}: expected positive numbers, got {getattr(self, name)}")
        if not (self.low < self.high).all():
            raise ValueError(f"limits: expected low below high, got {self.low} and {self.high}")

    @classmethod
    def from_spec(cls, spec: Spec, velocity: Any, acceleration: Any, **others: float) -> Limits:
        """Position limits of an absolute joint-space Spec; velocity and acceleration per joint, or one for all."""
        for part in spec.parts:
            if part.kind not in ("joint", "gripper") or part.reference != "absolute":
                raise SpecMismatch(
                    f"{part.name}: expected absolute joint or gripper targets, got {part.reference} {part.kind}; "
                    "convert with robot_value.actions, or send Cartesian deltas to MoveIt Servo"
                )
        low, high = (np.array([x for part in spec.parts for x in getattr(part, end)]) for end in ("low", "high"))
        spread = [np.broadcast_to(np.asarray(x, np.float64), low.shape) for x in (velocity, acceleration)]
        return cls(low, high, *spread, **others)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What to publish now. Where not ok, `command` is the next step of a limited stop or of holding still."""

    ok: bool  # whether the given command (up to rounding) is what is published
    command: np.ndarray | None  # float64[A]; None before the arm's position is known: publish nothing
    reason: str = ""  # why not ok


def check(
    command: Any,  # float[A], the target asked for
    previous: np.ndarray,  # float64[A], the last published target
    velocity: np.ndarray,  # float64[A], of the last published step, per s
    measured: Any,  # float[A]
    age_s: float,  # s, of the oldest input, from receive times on a steady clock
    dt: float,  # s, control period
    limits: Limits,
) -> Verdict:
    """Finite, then fresh, then within limits; otherwise one step of braking. `previous` must be what was published."""
    slowest, fastest = window(previous, velocity, dt, limits)
    wanted = vector(command, limits.low.size)
    reason = refusal(wanted, measured, age_s, limits)
    if not reason:
        allowed = advance(previous, np.clip((wanted - previous) / dt, slowest, fastest), dt, limits)
        missed = np.abs(wanted - allowed)
        if missed.max() <= ROUNDING:
            return Verdict(True, allowed)
        reason = _named_limit(int(missed.argmax()), wanted, previous, velocity, dt, limits)
    return Verdict(False, advance(previous, np.clip(0.0, slowest, fastest), dt, limits), reason)


def refusal(wanted: np.ndarray | None, measured: Any, age_s: float, limits: Limits) -> str:
    if wanted is None:
        return f"command: expected {limits.low.size} finite numbers, got something else"
    if vector(measured, limits.low.size) is None:
        return f"measured state: expected {limits.low.size} finite numbers, got something else"
    if not fresh(age_s, limits):
        return f"inputs: expected an age of 0 to {limits.max_age} s, got {age_s}"
    return ""


def fresh(age_s: Any, limits: Limits) -> bool:
    """False for NaN, None and the future too."""
    age = vector([age_s], 1)
    return age is not None and 0 <= float(age[0]) <= limits.max_age


def vector(value: Any, size: int) -> np.ndarray | None:
    """float64[size], or None unless it is that many sane numbers. Must precede every comparison: NaN passes clip."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == (size,) and (np.abs(array) <= ABSURD).all() else None


def window(position: np.ndarray, velocity: np.ndarray, dt: float, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Slowest and fastest next velocity, per joint, that keep all limits now and while braking later."""
    change = limits.acceleration * dt
    slowest = np.maximum(-limits.velocity, -reach(position - limits.low, dt, limits))
    fastest = np.minimum(limits.velocity, reach(limits.high - position, dt, limits))
    return np.maximum(slowest, velocity - change), np.minimum(fastest, velocity + change)


def reach(distance: np.ndarray, dt: float, limits: Limits) -> np.ndarray:
    """Fastest velocity for one step of dt from which braking by a·dt per step ends within `distance`.

    v dt + (v - a dt) dt + (v - 2 a dt) dt + ... <= v^2 / 2a + v dt / 2 + a dt^2 / 8 = distance, solved for v; distances
    of one small step (v <= a dt, at rest right after it) are exact.
    """
    distance, a = np.maximum(distance, 0.0), limits.acceleration
    return np.maximum(np.minimum(distance / dt, a * dt), np.sqrt(2 * a * distance) - a * dt / 2)


def advance(position: np.ndarray, velocity: np.ndarray, dt: float, limits: Limits) -> np.ndarray:
    return np.clip(position + velocity * dt, limits.low, limits.high)  # the clip only undoes rounding


def _named_limit(
    joint: int, wanted: np.ndarray, previous: np.ndarray, velocity: np.ndarray, dt: float, limits: Limits
) -> str:
    speed = (wanted[joint] - previous[joint]) / dt
    change = (speed - velocity[joint]) / dt
    if not limits.low[joint] <= wanted[joint] <= limits.high[joint]:
        return f"joint {joint} position: expected {limits.low[joint]} to {limits.high[joint]}, got {wanted[joint]:.4g}"
    if abs(speed) > limits.velocity[joint]:
        return f"joint {joint} velocity: expected at most {limits.velocity[joint]}, got {abs(speed):.4g}"
    if abs(change) > limits.acceleration[joint]:
        return f"joint {joint} acceleration: expected at most {limits.acceleration[joint]}, got {abs(change):.4g}"
    return f"joint {joint}: too fast to brake before its position limit, got velocity {speed:.4g}"
