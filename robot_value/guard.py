"""The guard's states around braking.Brakes: what is published each control period, whatever comes in. numpy only.

HOLD -> RUN while motion is wanted (`enabled`) and everything is fresh; RUN -> STOPPING -> HOLD where inputs or plans
run out, and back by itself when they return; RUN -> STOPPING -> FAULT for what an operator must see. FAULT is latched:
only `reset` leaves it, and only to HOLD.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .braking import Brakes, Motion
from .safety import ROUNDING, Limits, fresh, vector

HOLD, RUN, STOPPING, FAULT = "HOLD", "RUN", "STOPPING", "FAULT"
BAD_STATES = 3  # unusable measured states in a row that latch a fault
NO_STATE = "no valid measured state yet"
AT_LIMIT = 1e-3  # rad or m; an arm that rests at a limit is measured a little beyond it

Inside = Callable[[np.ndarray], bool]  # float64[n, A] commands -> whether the tool stays inside its workspace


@dataclass(frozen=True, eq=False)
class Tick:
    """One control period's answer."""

    command: np.ndarray | None  # float64[A], publish exactly this; None before the arm's position is known: nothing
    followed: bool  # whether it is the command that was asked for
    state: str
    reason: str  # why not followed


class Guard:
    """Call `tick` once per control period and publish its command; nobody else may publish."""

    def __init__(self, limits: Limits, dt: float, inside: Inside | None = None, reanchors: bool = False) -> None:
        if not (np.isfinite(dt) and dt > 0):
            raise ValueError(f"guard: expected a positive control period in s, got {dt}")
        self.limits, self.dt = limits, dt
        self.brakes = Brakes(limits, dt)
        self.enabled = False  # whether motion is wanted
        self.motion: Motion | None = None  # last published
        self._told: np.ndarray | None = None  # what was published before the arm was lost sight of
        self.state, self.reason = HOLD, NO_STATE
        self.clamps = 0  # commands that were far from what was asked for, because that was not allowed
        self._inside = inside
        self._placed = limits.rated & ~limits.twist  # dims whose command says where to be
        self._reanchors = reanchors
        self._after_stop = HOLD
        self._hold = limits.low  # where to
        self._wanted: Motion | None = None  # as what was asked for moves
        self._position: np.ndarray | None = None  # measured, where fresh
        self._blend_left = 0  # ticks in which lagging behind does not count as clamping
        self._arrived = 0  # ticks in a row that the wanted position was met
        self._recent: deque[bool] = deque(maxlen=max(1, round(1 / dt)))  # clamped or not, of 1 s
        self._bad_states = 0
        self._silent = 0  # ticks without a command, until a moved arm has come to rest

    # -- requests ------------------------------------------------------------------------------------------------------

    def enable(self, wanted: bool) -> str:
        """Motion wanted or not; "" or why it cannot be."""
        if wanted and self._faulty:
            return f"expected no fault, got {self.reason}; reset first"
        self.enabled = wanted
        return ""

    def fault(self, reason: str) -> None:
        """Emergency stop, or a failure somebody saw: stop within limits, latch. The first reason stays."""
        if not self._faulty:
            self._stop(FAULT, reason)

    def bad_state(self, reason: str) -> None:
        """A measured state that cannot be used arrived."""
        self._bad_states += 1
        if self._bad_states >= BAD_STATES:
            self.fault(f"{self._bad_states} bad measured states in a row: {reason}")

    def good_state(self) -> None:
        self._bad_states = 0

    def reset(self) -> str:
        """Leave FAULT for HOLD, never for RUN, when inputs are fresh and the command is near the arm; "" or why not."""
        if self.state in (RUN, STOPPING):
            return f"expected state {FAULT} or {HOLD}, got {self.state}"
        if self._position is None:
            return "expected a fresh measured state, got none"
        self.state, self.reason = HOLD, "reset"
        if self.motion is not None and self._gap(self.limits.tolerance):
            self._forget("the arm was moved")
        return ""

    # -- a period ------------------------------------------------------------------------------------------------------

    def tick(self, wanted: Any, measured: Any, age_s: Any, periods: int = 1) -> Tick:
        """Anything may come in (None where nothing came); age_s is the measured state's, on a steady clock.

        `periods` have passed since the last tick: more than one where the guard itself came late.
        """
        target = vector(wanted, self.limits.low.size)
        before, self._position = self._position, self._fresh(measured, age_s)
        if self.motion is None:
            return self._begin(before)
        starved = self._why_not_run(target)
        if self.state == RUN and starved:
            self._stop(HOLD, starved)
        elif not starved and self.state != RUN and not self._faulty:
            self._run()
        if self.state == RUN:
            return self._follow(target, periods)
        self._wanted = None
        if self.state == STOPPING:
            published = self._publish(self.brakes.brake(self.motion))
            if self.at_rest:
                self._rest()
            return published
        if self._reanchors and self.state == HOLD and self._gap(self.limits.tolerance):
            self._forget("the arm was moved")
            self._told = None  # another scene: whatever the gripper held is not there
            return Tick(None, False, self.state, self.reason)
        return self._publish(self.brakes.follow(self.motion, Motion.still(self._hold)))

    def restart(self) -> None:
        """Nothing is known of the arm any more; a fault stays."""
        self._forget(self.reason if self.state == FAULT else NO_STATE)
        self.state, self._position, self._silent = FAULT if self._faulty else HOLD, None, 0

    def begin(self, measured: Any) -> None:
        """The arm is there, whatever was published before."""
        self.motion, self._wanted = Motion.still(self._inside_limits(measured)), None

    def obey(self, wanted: np.ndarray) -> Tick:
        """A command within limits at once, whatever the clock says (lock-step)."""
        self.state, self.reason = RUN, ""
        self._blend_left = 1  # lagging behind is no fault here
        return self._follow(wanted, 1)

    @property
    def at_rest(self) -> bool:
        """Of what was published last."""
        return self.motion is None or self.brakes.at_rest(self.motion)

    @property
    def _faulty(self) -> bool:
        return self.state == FAULT or (self.state == STOPPING and self._after_stop == FAULT)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _fresh(self, measured: Any, age_s: Any) -> np.ndarray | None:
        values = vector(measured, self.limits.low.size) if fresh(age_s, self.limits) else None
        return None if values is None else np.where(self.limits.twist, 0.0, values)  # a twist begins at rest

    def _begin(self, before: np.ndarray | None) -> Tick:
        """The first command is where the arm is, or the limit it rests at; one further out the operator moves back.

        Grippers stay where they were told to be: what they hold is not dropped because the arm begins anew.
        """
        position, rated = self._position, self.limits.rated
        if position is None:
            self.reason = NO_STATE if self.state == HOLD else self.reason
        elif (
            out := rated & ((position < self.limits.low - AT_LIMIT) | (position > self.limits.high + AT_LIMIT))
        ).any():
            self.reason = f"joint {out.argmax()} is outside its position limits; move the arm back"
        elif self._silent and (before is None or np.abs(position - before)[rated].max(initial=0) > ROUNDING * 1e3):
            self._silent = self._longest_silence
        elif self._silent:
            self._silent -= 1
        else:
            self.begin(position if self._told is None else np.where(rated, position, self._told))
            self._hold = self.motion.position
            self.reason = "holding" if self.state == HOLD else self.reason
        return Tick(None if self.motion is None else self.motion.position.copy(), False, self.state, self.reason)

    def _inside_limits(self, position: Any) -> np.ndarray:
        return np.clip(position, self.limits.low, self.limits.high)

    @property
    def _longest_silence(self) -> int:
        return max(2, round(0.1 / self.dt))

    def _why_not_run(self, target: np.ndarray | None) -> str:
        """Why the wanted command is not to be followed; "" where it is."""
        if not self.enabled:
            return "not enabled"
        if self._position is None:
            return f"measured state: expected one of 0 to {self.limits.max_age} s, got none"
        if target is None:
            return "no valid plan to follow"
        return self._gap(self.limits.tolerance if self.state == HOLD else self.limits.tracking)

    def _gap(self, allowed: float) -> str:
        """Why the last command is not near the arm; "" where it is, or nothing is known."""
        if self._position is None:
            return ""
        gap = np.where(self._placed, np.abs(self.motion.position - self._position), 0.0)
        joint = int(gap.argmax())
        if gap[joint] <= allowed:
            return ""
        return (
            f"joint {joint}: expected a command within {allowed} of the measured state, got one "
            f"{gap[joint]:.3g} away; reset to hold where the arm is"
        )

    def _run(self) -> None:
        self.state, self.reason = RUN, ""
        self._blend()

    def _blend(self) -> None:
        """From now on there is time to catch up with the plan."""
        self._arrived, self._blend_left = 0, round(self.limits.max_blend / self.dt)

    def _follow(self, target: np.ndarray, periods: int) -> Tick:
        if periods > 1:  # lagging behind is not the plan's fault then
            self._blend()
        reference = self._wanted or self.motion
        self._wanted = reference.to(target, self.dt * periods)
        step = self.brakes.follow(self.motion, self._wanted)
        missed = np.where(self.limits.rated, np.abs(step.position - target), 0.0)
        why = f"joint {missed.argmax()} is limited" if missed.max() > ROUNDING else ""
        behind = bool((missed > self.limits.velocity * self.dt).any())  # by more than a period at full speed
        if self._inside and not self._inside(self._until_rest(step)):
            step, why, behind = self.brakes.brake(self.motion), "the tool is at the limits of its workspace", True
        self._count(why, behind)
        return self._publish(step, not why)

    def _until_rest(self, step: Motion) -> np.ndarray:
        """float64[n, A], the step and the stop after it."""
        return np.stack([step.position, *(after.position for after in self.brakes.path(step))])

    def _count(self, why: str, behind: bool) -> None:
        """`why` the command is not the one that was asked for, "" where it is; `behind`: too far from it to pass.

        Candidates differ a little from one decision to the next, and limits round such seams off: no plan's fault.
        """
        self._arrived = 0 if why else self._arrived + 1
        self._blend_left = 0 if self._arrived >= 2 else max(0, self._blend_left - 1)
        clamped = bool(why) and behind and not self._blend_left
        self.clamps += clamped
        self._recent.append(clamped)
        self.reason = why if clamped or not why else "catching up with the plan"
        if sum(self._recent) > self.limits.max_clamps:
            self.fault(f"more than {self.limits.max_clamps} clamped commands within 1 s: {why}")

    def _stop(self, then: str, reason: str) -> None:
        self.state = then if self.motion is None else STOPPING
        self.reason, self._after_stop = reason, then
        self._recent.clear()
        if then == FAULT:
            self.enabled = False  # after the reset somebody has to want it again

    def _rest(self) -> None:
        """At rest. After a fault hold where the arm is, taken once so that sagging is not followed; else stay."""
        self.state, self._hold = self._after_stop, self.motion.position
        if self.state == FAULT and self._position is not None:
            near = np.clip(self._position, self.limits.low, self.limits.high)
            self._hold = np.where(self._placed, near, self._hold)

    def _forget(self, reason: str) -> None:
        self._told = self._told if self.motion is None else self.motion.position
        self.motion, self.reason, self._silent = None, reason, self._longest_silence

    def _publish(self, step: Motion, followed: bool = False) -> Tick:
        self.motion = step
        return Tick(step.position.copy(), followed, self.state, self.reason)
