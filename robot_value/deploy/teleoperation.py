"""What a human's hand says, as short plans: joystick, keyboard, twist or leader arm -> where the arm is to be next.

The human drives velocities; they are limited and ramped, and braked before a limit, so that a hand can only ask for
what the guard lets through. Pure: no ROS, no clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..safety import is_twist, speeds
from ..types import Spec, SpecMismatch
from .forward_kinematics import Kinematics

AHEAD = 0.25  # s of full speed that the hand's target may be ahead of what was executed


@dataclass(frozen=True)
class Wish:
    """What the hand says now."""

    owns: bool  # whether the human wants the arm
    velocity: np.ndarray  # float64[A], of the full speed, -1 to 1
    target: np.ndarray | None = None  # float64[A], where to be instead, spec units


@dataclass(frozen=True, eq=False)
class Reach:
    """What a hand may ask for, per action dim."""

    low: np.ndarray  # float64[A], spec units; of a twist infinite: it says no position
    high: np.ndarray  # float64[A], spec units
    speed: np.ndarray  # float64[A], per s; of a twist in spec units
    acceleration: np.ndarray  # float64[A], speed per s
    twist: np.ndarray  # bool[A], dims whose action is the velocity itself

    @classmethod
    def from_spec(cls, spec: Spec, speed: float, gripper_speed: float, ramp: float) -> Reach:
        """`speed` in rad/s or m/s, `gripper_speed` in ranges/s; full speed is reached after `ramp` s."""
        for part in spec.parts:
            if not is_twist(part) and (part.kind not in ("joint", "gripper") or part.reference != "absolute"):
                raise SpecMismatch(
                    f"{part.name}: expected absolute joint or gripper targets, or a twist, got {part.reference} "
                    f"{part.kind}; drive a Cartesian arm through MoveIt Servo's own teleoperation"
                )
        low, high = spec.low.astype(np.float64), spec.high.astype(np.float64)
        twist = np.array([is_twist(part) for part in spec.parts for _ in part.low])
        full = np.where(grippers(spec), gripper_speed * (high - low), speed / speeds(spec))
        low, high = np.where(twist, -np.inf, low), np.where(twist, np.inf, high)
        return cls(low, high, full, full / ramp, twist)


def grippers(spec: Spec) -> np.ndarray:
    """bool[A]"""
    return np.array([part.kind == "gripper" for part in spec.parts for _ in part.low])


class Hand:
    """The human's target: taken over where the arm is, moved by wishes, given back. A twist's target is a velocity."""

    def __init__(self, reach: Reach, dt: float, points: int) -> None:
        self.reach, self.dt, self.points = reach, dt, points
        self.position: np.ndarray | None = None  # float64[A]; None: the hand is off
        self.velocity = np.zeros_like(reach.low)

    def take(self, executed: np.ndarray) -> None:
        self.position = np.clip(executed, self.reach.low, self.reach.high)
        self.velocity = np.where(self.reach.twist, self.position, 0.0)

    def release(self) -> None:
        self.position = None

    def advance(self, wish: Wish, executed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next points float64[K, A] and their velocities; `executed` is the newest published command."""
        reach, dt = self.reach, self.dt
        wanted = wish.velocity * reach.speed if wish.target is None else self._toward(wish.target)
        change = reach.acceleration * dt
        velocity = np.clip(wanted, self.velocity - change, self.velocity + change)
        room = np.where(velocity > 0, reach.high - self.position, self.position - reach.low)
        velocity = np.sign(velocity) * np.minimum(np.abs(velocity), self._braked(room))
        leash = reach.speed * AHEAD
        position = np.clip(self.position + velocity * dt, executed - leash, executed + leash)
        position = np.where(reach.twist, velocity, np.clip(position, reach.low, reach.high))
        self.velocity, self.position = velocity, position
        slope = np.where(reach.twist, 0.0, velocity)
        ahead = np.arange(self.points)[:, None] * dt * slope
        return np.clip(position + ahead, reach.low, reach.high), np.tile(slope, (self.points, 1))

    def _toward(self, target: np.ndarray) -> np.ndarray:
        gap = np.clip(target, self.reach.low, self.reach.high) - self.position
        return np.sign(gap) * np.minimum(self._braked(np.abs(gap)), self.reach.speed)

    def _braked(self, distance: np.ndarray) -> np.ndarray:
        """Fastest velocity from which braking ends within `distance`: v dt + v^2 / 2a = distance, solved for v."""
        a, dt = self.reach.acceleration, self.dt
        return np.sqrt((a * dt) ** 2 + 2 * a * np.maximum(distance, 0.0)) - a * dt


# -- what the hand holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pad:
    """A joystick's layout: which axis moves which action dim, plainly and while `shift` is held."""

    deadman: int  # button that must be held to own the arm
    axes: tuple[int, ...]  # per action dim, -1: none
    shift: int = -1  # button, -1: none
    shifted: tuple[int, ...] = ()  # per action dim while shift is held
    closing: int = -1  # button that closes the gripper
    opening: int = -1  # button that opens it
    quiet: float = 0.1  # an axis this close to its middle says nothing

    def wish(self, axes: Sequence[float], buttons: Sequence[int], closes: np.ndarray) -> Wish:
        """`closes` float64[A]: +1 where larger closes a gripper, -1 where it opens one, 0 for joints."""
        chosen = self.shifted if self.shifted and _held(buttons, self.shift) else self.axes
        velocity = np.zeros_like(closes)
        for dim, axis in enumerate(chosen[: velocity.size]):
            if 0 <= axis < len(axes) and np.isfinite(axes[axis]) and abs(axes[axis]) > self.quiet:
                velocity[dim] = float(np.clip(axes[axis], -1.0, 1.0))
        velocity += closes * (_held(buttons, self.closing) - _held(buttons, self.opening))
        return Wish(_held(buttons, self.deadman), np.clip(velocity, -1.0, 1.0))


def _held(buttons: Sequence[int], button: int) -> bool:
    return 0 <= button < len(buttons) and bool(buttons[button])


class Keys:
    """A keyboard: 1-9 choose a dim, w and s move it, c and o close and open, space takes and gives back.

    Terminals tell no key's release: a press moves for `hold` s, and auto-repeat renews it.
    """

    def __init__(self, closes: np.ndarray, hold: float) -> None:
        self.closes, self.hold = closes, hold
        self.owns, self.dim = False, 0
        self._velocity, self._until = np.zeros_like(closes), -np.inf

    def press(self, key: str, now: float) -> None:
        """`now` in s, on any steady clock."""
        if key == " ":
            self.owns, self._until = not self.owns, -np.inf
        elif key.isdigit() and 1 <= int(key) <= self.closes.size:
            self.dim, self._until = int(key) - 1, -np.inf
        elif key in ("w", "s"):
            self._move(np.eye(self.closes.size)[self.dim] * (1 if key == "w" else -1), now)
        elif key in ("c", "o"):
            self._move(self.closes * (1 if key == "c" else -1), now)

    def wish(self, now: float) -> Wish:
        moving = now < self._until
        return Wish(self.owns, self._velocity if moving else np.zeros_like(self._velocity))

    def _move(self, velocity: np.ndarray, now: float) -> None:
        self._velocity, self._until = velocity, now + self.hold


def closing(spec: Spec) -> np.ndarray:
    """float64[A]: +1 where larger closes a gripper, -1 where it opens one, 0 for joints."""
    return np.array([float(part.sign) if part.kind == "gripper" else 0.0 for part in spec.parts for _ in part.low])


def joint_velocity(
    tool: Kinematics,
    joints: np.ndarray,  # float64[A]
    linear: np.ndarray,  # float64[3], m/s in the base's frame
    damping: float = 0.05,  # m/rad; larger is slower near singular poses
) -> np.ndarray:
    """float64[A] that moves the tool at `linear`: J^T (J J^T + damping^2 I)^-1 v, J by central differences."""
    around = 1e-4 * np.eye(joints.size)  # rad
    jacobian = (tool(joints + around) - tool(joints - around)).T / 2e-4  # float64[3, A]
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping**2 * np.eye(3), linear)
