"""The guard's plans: which are accepted, from whom, and where they say the arm is to be at a time.

A plan takes over from its start on (0: now); what of it is over by then is left out. It begins where the plan before it
is at that moment, or where the guard's command is, so that taking over is no jump. Between two points: cubic Hermite
where velocities are given, else a straight line; at a point exactly the point. No ROS, no torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..braking import Motion
from ..safety import Limits
from ..wire import HUMAN, POLICY, About, Plan

SECOND = 1_000_000_000  # ns
FUTURE = 50_000_000  # ns, by which a sender's clock may be ahead of ours


@dataclass(frozen=True)
class Rules:
    """What a plan must fulfil to be followed."""

    schema: str
    max_age: float = 0.5  # s since it was created
    max_observed_age: float = 0.5  # s since the oldest input it was made from
    max_horizon: float = 2.0  # s from now to its end


@dataclass(frozen=True, eq=False)
class Course:
    """A plan in force: knots in time, the first one where it took over."""

    about: About
    dt: float  # s per step
    start: int  # ns, of its first action's step
    times: np.ndarray  # int64[K], ns
    positions: np.ndarray  # float64[K, A]
    velocities: np.ndarray | None  # float64[K, A], per s

    def at(self, time: int) -> np.ndarray | None:
        """float64[A]; None before it begins and after its end."""
        if not self.times[0] <= time <= self.times[-1]:
            return None
        after = int(np.searchsorted(self.times, time))
        if self.times[after] == time:
            return self.positions[after]
        h = (self.times[after] - self.times[after - 1]) / SECOND
        s = (time - self.times[after - 1]) / SECOND / h
        (p0, p1) = self.positions[after - 1 : after + 1]
        if self.velocities is None:
            return p0 + s * (p1 - p0)
        m0, m1 = h * self.velocities[after - 1 : after + 1]
        return p0 + s * s * (3 - 2 * s) * (p1 - p0) + s * (1 - s) * ((1 - s) * m0 - s * m1)

    def velocity(self, time: int, dt: float) -> np.ndarray:
        """float64[A], per s, as a difference over the `dt` s before."""
        before = self.at(time - round(dt * SECOND))
        return np.zeros_like(self.positions[0]) if before is None else (self.at(time) - before) / dt

    def step(self, time: int) -> int:
        """Control step, counted from the episode's start, that is under way just before `time`."""
        return self.about.step + max(0, (time - 1 - self.start) // round(self.dt * SECOND))


class Plans:
    """`offer` what arrives, ask `at` every period. The human owns the arm between intervene(True) and (False)."""

    def __init__(self, rules: Rules, limits: Limits) -> None:
        self.rules, self.limits = rules, limits
        self.human = False
        self.refused: Counter[str] = Counter()  # first words of the reason -> times
        self._released = 0  # ns, when the human gave the arm back
        self._last: dict[str, About] = {}  # source -> newest accepted
        self._now: Course | None = None
        self._next: tuple[Plan, int] | None = None  # a plan and its start, ns

    def offer(self, plan: Plan, now: int, motion: Motion | None = None) -> str:
        """ "" where it is accepted, else why not. `motion` is what the guard published last."""
        if reason := self._why_not(plan, now, motion):
            self.refused[reason.split(":")[0]] += 1
            return reason
        self._last[plan.about.source] = plan.about
        self._next = (plan, plan.about.start or now)
        return ""

    def intervene(self, human: bool, now: int) -> None:
        """The human takes the arm, or gives it back: whatever the other one wanted is over."""
        if human != self.human:
            self.human, self._released = human, now
            self.clear()

    def clear(self) -> None:
        self._now = self._next = None

    def at(self, time: int, motion: Motion, dt: float, unsent: bool = False) -> tuple[np.ndarray, Course] | None:
        """Where to be at `time` (ns), a period of `dt` s after `motion` ends; None where no plan says it.

        `unsent`: no gripper was told anything yet, so that it does not come from where `motion` has it.
        """
        if self._next and time > self._next[1]:
            self._now, self._next = self._take_over(*self._next, time - round(dt * SECOND), motion, dt, unsent), None
        position = self._now.at(time) if self._now else None
        return None if position is None else (position, self._now)

    def _take_over(self, plan: Plan, start: int, now: int, motion: Motion, dt: float, unsent: bool) -> Course | None:
        step = round(plan.dt * SECOND)
        times = start + step * np.arange(1, len(plan.actions) + 1, dtype=np.int64)
        join = max(start, now)
        left = times > join
        before = self._now.at(join) if self._now and join > now else None
        position = motion.position if before is None else before
        velocity = motion.velocity if before is None else self._now.velocity(join, dt)
        if not left.any():
            return None
        if unsent:
            position = np.where(self.limits.rated, position, plan.actions[left][0])
        velocities = None if plan.velocities is None else np.vstack([velocity, plan.velocities[left]])
        positions = np.vstack([position, plan.actions[left]])
        return Course(plan.about, plan.dt, start, np.append(join, times[left]), positions, velocities)

    def _why_not(self, plan: Plan, now: int, motion: Motion | None) -> str:
        about, rules = plan.about, self.rules
        start = about.start or now
        end = start + round(len(plan.actions) * plan.dt * SECOND)
        last = self._last.get(about.source)
        if about.schema != rules.schema:
            return f"schema: expected {rules.schema}, got {about.schema}; is it the same topic YAML and checkpoint?"
        if about.source != (HUMAN if self.human else POLICY):
            return f"source: expected {HUMAN if self.human else POLICY}, got {about.source}"
        if last and about.seq <= last.seq and about.created <= last.created:
            return f"seq: expected more than {last.seq}, got {about.seq}"
        if about.source == POLICY and about.observed <= self._released:
            return "observed: expected inputs from after the human's release, got older ones"
        for what, made, most in (
            ("created", about.created, rules.max_age),
            ("observed", about.observed, rules.max_observed_age),
        ):
            if not -FUTURE <= now - made <= most * SECOND:
                return f"{what}: expected an age of 0 to {most} s, got {(now - made) / SECOND:.3f} s"
        if end <= now:
            return f"start: expected an end in the future, got one {(now - end) / SECOND:.3f} s ago"
        if end - now > rules.max_horizon * SECOND:
            return f"horizon: expected an end within {rules.max_horizon} s, got {(end - now) / SECOND:.3f} s"
        return self._absurd(plan, start, now, motion)

    def _absurd(self, plan: Plan, start: int, now: int, motion: Motion | None) -> str:
        """Numbers that no limiting could make meaningful: another unit, another joint order, a broken model."""
        limits, rated = self.limits, self.limits.rated & ~self.limits.twist
        speed = np.abs(plan.actions) / np.maximum(-limits.low, limits.high)
        if speed[:, limits.twist].max(initial=0.0) > limits.absurd_speed:
            dim = int(np.where(limits.twist, speed, 0.0).max(0).argmax())
            return (
                f"speed: expected at most {limits.absurd_speed:g} times the twist's limit, got "
                f"{speed[:, dim].max():.3g} times for dim {dim}; are the units right?"
            )
        left = plan.actions[max(0, int((now - start) // round(plan.dt * SECOND))) :]
        path = left if motion is None else np.vstack([motion.position, left])
        speed = np.abs(np.diff(path, axis=0)) / plan.dt / limits.velocity
        if speed.size and speed[:, rated].max(initial=0.0) > limits.absurd_speed:
            joint = int(np.where(rated, speed, 0.0).max(0).argmax())
            return (
                f"speed: expected at most {limits.absurd_speed:g} times the velocity limit, got "
                f"{speed[:, joint].max():.3g} times for dim {joint}; are units and joint order right?"
            )
        beyond = np.maximum(limits.low - plan.actions, plan.actions - limits.high).max(0) / (limits.high - limits.low)
        if beyond[rated].max(initial=0.0) > 0.5:
            return f"position: expected targets within limits, got dim {np.where(rated, beyond, 0).argmax()} far beyond"
        return ""
