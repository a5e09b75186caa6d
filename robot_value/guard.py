"""The guard's states around safety.check: HOLD -> RUN on request, RUN -> STOPPING -> FAULT at the first bad tick.

FAULT is latched: only `reset` leaves it, and only to HOLD. numpy only; the ROS node around this is thin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .safety import ROUNDING, Limits, advance, check, fresh, reach, refusal, vector, window

HOLD, RUN, STOPPING, FAULT = "HOLD", "RUN", "STOPPING", "FAULT"


@dataclass(frozen=True, eq=False)
class Tick:
    """One control period's answer."""

    command: np.ndarray | None  # float64[A], publish exactly this; None before the arm's position is known: nothing
    followed: bool  # whether it is the command that was asked for
    state: str
    reason: str  # why not followed


class Guard:
    """Call `tick` once per control period and publish its command; nobody else may publish."""

    def __init__(self, limits: Limits, dt: float) -> None:
        if not (np.isfinite(dt) and dt > 0):
            raise ValueError(f"guard: expected a positive control period in s, got {dt}")
        self.limits, self.dt = limits, dt
        self.state = HOLD
        self.reason = "no valid measured state yet"
        self._unready = self.reason  # why motion may not begin on the last tick's inputs, "" where it may
        self._after_stop = HOLD
        self._command: np.ndarray | None = None  # last published
        self._velocity = np.zeros_like(limits.low)  # of the last published step
        self._target = limits.low  # where to hold
        self._wanted: np.ndarray | None = None  # last command asked for, if it was one
        self._blend_left = 0  # ticks that a started motion may still take to catch up with its command
        self._arrived = 0  # ticks in a row that it was there

    def tick(self, command: Any, measured: Any, age_s: Any) -> Tick:
        """Anything may come in (None where nothing came); age_s is the oldest input's, on a steady clock."""
        size = self.limits.low.size
        before, self._wanted = self._wanted, vector(command, size)
        position = vector(measured, size) if fresh(age_s, self.limits) else None
        self._unready = self._why_unready(measured, age_s)
        if self._command is None:
            return self._begin(position)
        if self.state == RUN:
            return self._follow(command, measured, age_s, before)
        if self.state == STOPPING:
            published = self._publish(self._toward(self._command))
            if not self._velocity.any():
                self._rest(position)
            return published
        return self._publish(self._toward(self._target))

    def run(self) -> str:
        """Let commands through from the next tick on; "" or why not."""
        if self.state != HOLD:
            return f"expected state {HOLD}, got {self.state}: {self.reason}"
        if not self._unready:
            self.state, self.reason = RUN, ""
            self._arrived, self._blend_left = 0, round(self.limits.max_blend / self.dt)
        return self._unready

    def hold(self) -> None:
        """Stop within limits and hold still (deactivate); a fault stays a fault."""
        if self.state == RUN:
            self._stop(HOLD, "hold requested")

    def fault(self, reason: str) -> None:
        """Emergency stop, or a failure the node saw: stop within limits, latch. The first reason stays."""
        if self.state == FAULT or (self.state == STOPPING and self._after_stop == FAULT):
            return
        self._stop(FAULT, reason)

    def reset(self) -> str:
        """Leave FAULT for HOLD (never for RUN) when inputs are fresh and the command is near the arm; "" or why not."""
        if self.state != FAULT:
            return f"expected state {FAULT}, got {self.state}"
        if not self._unready:
            self.state, self.reason = HOLD, "reset"
        return self._unready

    def _begin(self, position: np.ndarray | None) -> Tick:
        """The first command is where the arm is; an arm outside its limits is for the operator to move back."""
        low, high = self.limits.low, self.limits.high
        if position is not None and ((position < low) | (position > high)).any():
            joint = int(np.argmax(np.maximum(low - position, position - high)))
            self.reason = self._unready = f"joint {joint} is outside its position limits; move the arm back"
        elif position is not None:
            self._command = self._target = position
            self.reason = "holding" if self.state == HOLD else self.reason
        else:
            self.reason = self._unready = "no valid measured state yet"
        return Tick(None if self._command is None else position.copy(), False, self.state, self.reason)

    def _follow(self, command: Any, measured: Any, age_s: Any, before: np.ndarray | None) -> Tick:
        if self._blend_left and not self._unready and before is not None:
            return self._blend(before)
        self._blend_left = 0
        verdict = check(command, self._command, self._velocity, measured, age_s, self.dt, self.limits)
        self.reason = ""
        if not verdict.ok:
            self._stop(FAULT, verdict.reason)
        return self._publish(verdict.command, verdict.ok)

    def _blend(self, before: np.ndarray) -> Tick:
        """Catch up with a moving command from standstill; done when its position and its velocity are reached."""
        self.reason = "catching up with the first commands"
        published = self._publish(self._toward(before, (self._wanted - before) / self.dt))
        self._arrived = self._arrived + 1 if np.abs(published.command - self._wanted).max() <= ROUNDING else 0
        self._blend_left = 0 if self._arrived == 2 else self._blend_left - 1
        return published

    def _why_unready(self, measured: Any, age_s: Any) -> str:
        """Why motion may not begin with these inputs; "" where it may."""
        if reason := refusal(self._wanted, measured, age_s, self.limits):
            return reason
        gap = np.abs(self._wanted - vector(measured, self._wanted.size))
        joint = int(gap.argmax())
        if gap[joint] <= self.limits.tolerance:
            return ""
        wanted = f"within {self.limits.tolerance} of the measured state"
        return f"joint {joint}: expected a command {wanted}, got one {gap[joint]:.3g} away"

    def _stop(self, then: str, reason: str) -> None:
        self.state, self.reason, self._after_stop = STOPPING, reason, then

    def _rest(self, position: np.ndarray | None) -> None:
        """At rest: hold where the arm is (taken once, so that sagging is not followed), else where we are."""
        self.state = self._after_stop
        known = position is not None
        self._target = np.clip(position, self.limits.low, self.limits.high) if known else self._command

    def _toward(self, target: np.ndarray, drift: np.ndarray | float = 0.0) -> np.ndarray:
        """The next command on the way to a target that moves on at `drift` per s; our own position means brake."""
        gap = target - self._command
        aim = drift + np.sign(gap) * reach(np.abs(gap), self.dt, self.limits)
        slowest, fastest = window(self._command, self._velocity, self.dt, self.limits)
        return advance(self._command, np.clip(aim, slowest, fastest), self.dt, self.limits)

    def _publish(self, command: np.ndarray, followed: bool = False) -> Tick:
        self._velocity = (command - self._command) / self.dt
        self._command = command
        return Tick(command.copy(), followed, self.state, self.reason)
