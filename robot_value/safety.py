"""What the guard may publish at all: sane numbers, limits per action dim, ages. numpy only.

How to move within them is braking.py's; when to move is guard.py's. No claim of certification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import Spec, SpecMismatch

# Commands are float32: one that misses what is allowed by no more than this (rad or m) is moved there, not clamped.
ROUNDING = 1e-6

# No joint is there (rad or m): a number beyond this is garbage, like NaN, and nothing computed from less overflows.
ABSURD = 1e9

# Velocity, acceleration and jerk of dims that only have position limits (grippers): far beyond any, far from overflow.
UNLIMITED = {"velocity": 1e5, "acceleration": 1e7, "jerk": 1e9}

RATES = tuple(UNLIMITED)


@dataclass(frozen=True, eq=False)
class Limits:
    """What the arm may be asked for, per dim; the driver's and the hardware's own limits lie outside these."""

    low: np.ndarray  # float64[A], rad or m
    high: np.ndarray  # float64[A], rad or m
    velocity: np.ndarray  # float64[A], rad/s or m/s
    acceleration: np.ndarray  # float64[A], rad/s^2 or m/s^2
    jerk: np.ndarray  # float64[A], rad/s^3 or m/s^3
    max_age: float = 0.05  # s, of the measured state; older ones are stale (reliability.md, S_state)
    tolerance: float = 0.1  # rad or m, command to measured state when motion may begin
    tracking: float = 0.5  # rad or m, command to measured state while moving: more is a blocked arm, or a wrong state
    max_blend: float = 0.5  # s, to catch up with a moving plan before lagging counts as clamping
    max_clamps: int = 25  # clamped commands within 1 s that are still bearable
    absurd_speed: float = 3.0  # times `velocity`: a plan that asks for more is refused whole, for less is clamped

    def __post_init__(self) -> None:
        for name in ("low", "high", *RATES):
            value = vector(getattr(self, name), np.size(self.low))
            if value is None:
                raise ValueError(
                    f"limits {name}: expected {np.size(self.low)} finite numbers, got {getattr(self, name)}"
                )
            object.__setattr__(self, name, value)
        for name in (*RATES, "max_age", "tolerance", "tracking", "max_blend", "absurd_speed"):
            if not np.all(np.asarray(getattr(self, name)) > 0):
                raise ValueError(f"limits {name}: expected positive numbers, got {getattr(self, name)}")
        if not (self.low < self.high).all():
            raise ValueError(f"limits: expected low below high, got {self.low} and {self.high}")

    @classmethod
    def from_spec(cls, spec: Spec, velocity: Any, acceleration: Any, jerk: Any, **others: float) -> Limits:
        """Of an absolute joint-space Spec; rates are for its arm joints, one for all or one each, not for grippers."""
        for part in spec.parts:
            if part.kind not in ("joint", "gripper") or part.reference != "absolute":
                raise SpecMismatch(
                    f"{part.name}: expected absolute joint or gripper targets, got {part.reference} {part.kind}; "
                    "convert with robot_value.actions, or send Cartesian deltas to MoveIt Servo"
                )
        low, high = (np.array([x for part in spec.parts for x in getattr(part, end)]) for end in ("low", "high"))
        joints = np.array([part.kind == "joint" for part in spec.parts for _ in part.low])
        rates = {}
        for name, given in zip(RATES, (velocity, acceleration, jerk), strict=True):
            values = np.atleast_1d(np.asarray(given, np.float64))
            if values.shape not in ((1,), (int(joints.sum()),)):
                raise ValueError(f"{name}: expected 1 number or one per arm joint ({joints.sum()}), got {len(values)}")
            rates[name] = np.full(len(low), UNLIMITED[name])
            rates[name][joints] = values
        return cls(low, high, **rates, **others)

    @property
    def rated(self) -> np.ndarray:
        """bool[A], dims that are limited in more than position: all but grippers."""
        return self.velocity < UNLIMITED["velocity"]


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
