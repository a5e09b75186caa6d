"""What the guard may publish at all: sane numbers, limits per action dim, ages. numpy only.

How to move within them is braking.py's; when to move is guard.py's. No claim of certification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import ActionPart, Spec, SpecMismatch

# Commands are float32: one that misses what is allowed by no more than this (rad or m) is moved there, not clamped.
ROUNDING = 1e-6

# No joint is there (rad or m): a number beyond this is garbage, like NaN, and nothing computed from less overflows.
ABSURD = 1e9

# Velocity, acceleration and jerk of dims that only have position limits (grippers): far beyond any, far from overflow.
UNLIMITED = {"velocity": 1e5, "acceleration": 1e7, "jerk": 1e9}

RATES = tuple(UNLIMITED)

# 1/s, times a twist's jerk limit: from one limit of jerk to the other within the guard's shortest period, 8 ms.
SNAP = 250.0
UNIT = re.compile(r"([0-9.]+ )?(m|rad)(/s)?")


@dataclass(frozen=True, eq=False)
class Limits:
    """What the arm may be asked for, per dim; the driver's and the hardware's own limits lie outside these.

    A dim of a twist is a velocity itself: low and high are that velocity's limits, and so on one derivative further.
    """

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
    absurd_speed: float = 3.0  # times the speed: a plan that asks for more is refused whole, for less is clamped
    twist: np.ndarray | None = None  # bool[A], dims whose command is a velocity: zero is their rest; None: no dim

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
        twist = np.zeros(self.low.shape, bool) if self.twist is None else np.asarray(self.twist, bool)
        object.__setattr__(self, "twist", twist)
        if (twist & ((self.low > 0) | (self.high < 0))).any():
            raise ValueError(f"limits: expected a twist that may be zero, got {self.low[twist]} to {self.high[twist]}")

    @classmethod
    def from_spec(cls, spec: Spec, velocity: Any, acceleration: Any, jerk: Any, **others: float) -> Limits:
        """Of absolute joints or a twist; rates are SI, one for all dims or one each, not for grippers."""
        for part in spec.parts:
            if not is_twist(part) and (part.kind not in ("joint", "gripper") or part.reference != "absolute"):
                raise SpecMismatch(
                    f"{part.name}: expected absolute joint or gripper targets, got {part.reference} {part.kind}; "
                    "convert with robot_value.actions, or send Cartesian deltas to MoveIt Servo"
                )
        low, high = (np.array([x for part in spec.parts for x in getattr(part, end)]) for end in ("low", "high"))
        twist, joints = (
            np.array([asked(part) for part in spec.parts for _ in part.low])
            for asked in (is_twist, lambda part: part.kind != "gripper")
        )
        rates = {}
        for name, given in zip(RATES, (velocity, acceleration, jerk), strict=True):
            values = np.atleast_1d(np.asarray(given, np.float64))
            if values.shape not in ((1,), (int(joints.sum()),)):
                raise ValueError(f"{name}: expected 1 number or one per arm joint ({joints.sum()}), got {len(values)}")
            rates[name] = np.full(len(low), UNLIMITED[name])
            rates[name][joints] = values
            rates[name] /= speeds(spec)
        v, a, j = (rates[name] for name in RATES)
        low, high = np.where(twist, np.maximum(low, -v), low), np.where(twist, np.minimum(high, v), high)
        v, a, j = np.where(twist, a, v), np.where(twist, j, a), np.where(twist, j * SNAP, j)
        return cls(low, high, v, a, j, twist=twist, **others)

    @property
    def rated(self) -> np.ndarray:
        """bool[A], dims that are limited in more than position: all but grippers."""
        return self.velocity < UNLIMITED["velocity"]


def is_twist(part: ActionPart) -> bool:
    """Cartesian increments or velocities, which leave as a twist: another one keeps the arm's pose."""
    return part.kind in ("position", "rotation", "pose") and part.reference in ("current", "previous")


def speeds(spec: Spec) -> np.ndarray:
    """float64[A], m/s or rad/s that the number 1 of a twist's dim means; 1 elsewhere. Raises SpecMismatch.

    Units "m", "rad" or "0.05 m+0.5 rad" are of increments, each of one control step; "m/s+rad/s" of velocities.
    """
    return np.concatenate([speeds_of(part, spec.dt) for part in spec.parts])


def speeds_of(part: ActionPart, dt: float) -> np.ndarray:
    """float64[dims], as `speeds`, of one part; `dt` s per control step."""
    if not is_twist(part):
        return np.ones(len(part.low))
    wanted = {"pose": ["m", "rad"], "position": ["m"], "rotation": ["rad"]}[part.kind]
    units = [UNIT.fullmatch(text.strip()) for text in part.unit.split("+")]
    plain = len(part.low) == 3 * len(wanted) and (part.rotation == "axis_angle") == ("rad" in wanted)
    if not plain or [unit and unit[2] for unit in units] != wanted:
        rotation = ", rotation axis_angle" if "rad" in wanted else ""
        raise SpecMismatch(
            f"{part.name}: expected {3 * len(wanted)} dims in {'+'.join(wanted)} (per step) or "
            f"{'+'.join(f'{unit}/s' for unit in wanted)}{rotation}, got {len(part.low)} in {part.unit}, "
            f"rotation {part.rotation}"
        )
    return np.repeat([float(unit[1] or 1) / (1 if unit[3] else dt) for unit in units], 3)


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
