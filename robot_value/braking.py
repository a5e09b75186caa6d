"""One step of motion within position, velocity, acceleration and jerk limits; every joint by itself, all at once.

The rule that makes it safe: a step is taken only if the limited stop that would follow it (`brake`, step after step)
keeps all limits until rest. Otherwise the next step of the stop that was found for the last one is taken: that one
exists always. So there is nothing to prove about the future but what was simulated. Time is discrete, period dt: a
step has one acceleration a, then v += a dt and p += v dt; its jerk is the change of a over dt.

A twist is limited as a position is, one derivative further: its velocities stay between low and high, change by at most
limits.velocity per s, and so on. Only its stop differs: it ends at zero instead of where it is.

Inside, units are those of one step of full jerk (j = 1, dt = 1): a stop then ends exactly at rest, without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from .safety import ROUNDING, Limits

CANDIDATES = np.linspace(0.0, 1.0, 9)[:, None]  # between braking and what is wanted
GRID = np.linspace(0.0, 1.0, 17)[:, None]  # of what may be wanted on the way to a target
SLACK = 1e-12  # rad and rad/s: rounding, not motion
NOTHING = 1e-9  # in units of one step of full jerk: rounding of the change of units
LONGEST_STOP = 1.0  # s, from full velocity


@dataclass(frozen=True, eq=False)
class Motion:
    """A published step: where it ends and how it moved, as differences of what was published say."""

    position: np.ndarray  # float64[A]
    velocity: np.ndarray  # float64[A], per s
    acceleration: np.ndarray  # float64[A], per s^2

    @classmethod
    def still(cls, position: np.ndarray) -> Motion:
        return cls(position, np.zeros_like(position), np.zeros_like(position))

    @property
    def at_rest(self) -> bool:
        """Does not change; what that means for a twist Brakes.at_rest says."""
        return not (self.velocity.any() or self.acceleration.any())

    def to(self, position: np.ndarray, dt: float) -> Motion:
        """The step that ends at `position`."""
        velocity = (position - self.position) / dt
        return Motion(position, velocity, (velocity - self.velocity) / dt)


class Brakes:
    """What `limits` allow at a period of `dt` s. Raises ValueError where a stop from full velocity takes too long."""

    def __init__(self, limits: Limits, dt: float) -> None:
        self.limits, self.dt = limits, dt
        self._a, self._v, self._p = (limits.jerk * dt**n for n in (1, 2, 3))  # units of one step of full jerk
        self._most = limits.acceleration / self._a
        # Jerk and acceleration first make things worse: both ramps, and what they add to the velocity.
        slow = limits.velocity / limits.acceleration + 2 * limits.acceleration / limits.jerk
        slow += np.where(limits.twist, np.maximum(-limits.low, limits.high) / limits.velocity, 0.0)
        if slow.max() > LONGEST_STOP:
            raise ValueError(
                f"limits: expected a stop from full velocity within {LONGEST_STOP} s, got {slow.max():.2f} s for dim "
                f"{slow.argmax()}; allow more acceleration and jerk, or less velocity"
            )
        self._longest = 20 + 4 * int(LONGEST_STOP / dt)  # steps; none takes that many

    # -- a step --------------------------------------------------------------------------------------------------------

    def follow(self, motion: Motion, target: Motion) -> Motion:
        """The step to a moving target where it is allowed, else one that catches up soonest and does not overshoot."""
        target = replace(target, position=np.clip(target.position, self.limits.low, self.limits.high))
        direct = self.hits(motion, target)
        wanted = motion.to(target.position, self.dt).acceleration
        if not direct.all():
            wanted = np.where(direct, wanted, self.toward(motion, target))
        step = self.advance(motion, wanted)
        near = np.abs(step.position - target.position) <= SLACK + 2 * NOTHING * self._p
        if not near.any():
            return step
        return motion.to(np.where(near, target.position, step.position), self.dt)  # to the bit, as lock-step promises

    def brake(self, motion: Motion) -> Motion:
        """The next step of the fastest stop; a twist goes to zero."""
        step = self._step(motion, _brake(motion.velocity / self._v, motion.acceleration / self._a, self._most))
        twist = self.limits.twist
        if not twist.any():
            return step
        ramp = self.follow(motion, Motion.still(np.where(twist, 0.0, motion.position)))
        return Motion(*(np.where(twist, getattr(ramp, f.name), getattr(step, f.name)) for f in fields(Motion)))

    def at_rest(self, motion: Motion) -> bool:
        return motion.at_rest and not motion.position[self.limits.twist].any()

    def advance(self, motion: Motion, acceleration: np.ndarray) -> Motion:
        """The step of that acceleration, per s^2, or the nearest safe one that was tried between it and braking."""
        v, a, fastest = motion.velocity / self._v, motion.acceleration / self._a, self.limits.velocity / self._v
        braking = _brake(v, a, self._most)
        lower = np.maximum(np.maximum(-self._most, a - 1), -fastest - v)
        upper = np.minimum(np.minimum(self._most, a + 1), fastest - v)
        wanted = np.minimum(np.maximum(acceleration / self._a, lower), upper)
        doubtful = ~self._far_from_limits(motion.position, v, wanted)
        if doubtful.any():
            wanted[doubtful] = self._safe(motion.position, v, braking, wanted, doubtful)
        return self._step(motion, wanted)

    def path(self, motion: Motion) -> Iterator[Motion]:
        """The steps of the stop after `motion`, until rest."""
        for _ in range(self._longest):
            if self.at_rest(motion):
                return
            motion = self.brake(motion)
            yield motion

    # -- what is wanted ------------------------------------------------------------------------------------------------

    def hits(self, motion: Motion, target: Motion) -> np.ndarray:
        """bool[A], where one step to the target's position can be followed by its velocity, then its acceleration."""
        once = motion.to(target.position, self.dt)
        again = target.acceleration + (target.velocity - once.velocity) / self.dt
        slack = ROUNDING / self.dt**2
        most, change = self.limits.acceleration + slack, self._a + 2 * slack
        kept = (np.abs(once.acceleration) <= most) & (np.abs(again) <= most)
        kept &= np.abs(once.velocity) <= self.limits.velocity + slack * self.dt
        for before, after in ((motion.acceleration, once.acceleration), (once.acceleration, again)):
            kept &= np.abs(after - before) <= change
        return kept & (np.abs(target.acceleration - again) <= change)

    def toward(self, motion: Motion, target: Motion) -> np.ndarray:
        """Acceleration, per s^2, of the next step to a target that moves on at its velocity, without overshooting.

        In the target's frame the stop after the step has to end at the target; where it would end is found on a grid.
        """
        a = motion.acceleration / self._a
        lower, upper = np.maximum(-self._most, a - 1), np.minimum(self._most, a + 1)
        tried = lower + GRID * (upper - lower)
        frame = np.clip(target.velocity, -self.limits.velocity, self.limits.velocity)  # faster ones are not caught
        behind = (motion.position - target.position) / self._p + frame / self._v
        end = behind + self._stop((motion.velocity - frame) / self._v, tried, self._most)[-1]
        below = np.clip((end <= 0).sum(0) - 1, 0, len(tried) - 2)[None]
        (e0, e1), (a0, a1) = ([np.take_along_axis(x, below + i, 0)[0] for i in (0, 1)] for x in (end, tried))
        rise = np.where(e1 > e0, e1 - e0, np.inf)
        return (a0 + np.clip(-e0 / rise, 0.0, 1.0) * (a1 - a0)) * self._a

    # -- in units of one step of full jerk -----------------------------------------------------------------------------

    def _far_from_limits(self, position: np.ndarray, v: np.ndarray, a: np.ndarray) -> np.ndarray:
        """bool[A], where a coarse bound of the stop's length is enough: highest speed times longest duration.

        Speed: a falls by 1 per step, which adds a^2 / 2 at most. Steps: |a| + 1 for that, speed / most + most + 3 then.
        """
        after, size = v + a, np.abs(a)
        speed = np.abs(after) + size * (size + 1) / 2
        way = speed * (size + speed / self._most + self._most + 4) * self._p
        end = position + after * self._p
        kept = (end - way >= self.limits.low) & (end + way <= self.limits.high)
        return kept & (speed * self._v <= self.limits.velocity)

    def _safe(
        self, position: np.ndarray, v: np.ndarray, braking: np.ndarray, wanted: np.ndarray, dims: np.ndarray
    ) -> np.ndarray:
        """Of some dims the last acceleration on the way from braking to wanted whose stop keeps all limits."""
        p, v, most, unit = position[dims], v[dims], self._most[dims], self._p[dims]
        tried = braking[dims] + CANDIDATES * (wanted - braking)[dims]
        lowest, highest, speed, _ = self._stop(v, tried, most)
        safe = speed * self._v[dims] <= self.limits.velocity[dims] + SLACK
        safe &= lowest * unit + p >= self.limits.low[dims] - SLACK
        safe &= highest * unit + p <= self.limits.high[dims] + SLACK
        safe[0] = True  # what is left of the last stop
        last = len(tried) - 1 - safe[::-1].argmax(0)
        return np.take_along_axis(tried, last[None], 0)[0]

    def _stop(self, v: np.ndarray, a: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, ...]:
        """Lowest, highest, fastest and final of a step of `a` and the stop after it, from position 0; each [..., A]."""
        v = v + a
        p = v
        lowest, highest, fastest = p, p, np.abs(v)
        for i in range(self._longest):
            if not i % 4 and not (v.any() or a.any()):
                break
            a = _brake(v, a, most)
            v = v + a
            p = p + v
            lowest, highest = np.minimum(lowest, p), np.maximum(highest, p)
            fastest = np.maximum(fastest, np.abs(v))
        return lowest, highest, fastest, p

    def _step(self, motion: Motion, a: np.ndarray) -> Motion:
        v = motion.velocity / self._v + a
        v = np.where(np.abs(v) < NOTHING, 0.0, v)
        position = np.clip(motion.position + v * self._p, self.limits.low, self.limits.high)  # undoes rounding
        return Motion(position, v * self._v, a * self._a)


def _brake(v: np.ndarray, a: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Acceleration of the next step of the fastest stop.

    The largest deceleration r from which r, r - 1, r - 2, ... ends before the velocity turns: r^2 / 2 + r / 2 + 1 / 8
    = |v|, solved for r; velocities of at most one step (r <= 1) are exact.
    """
    speed = np.abs(v)
    slowing = np.minimum(most, np.maximum(np.minimum(speed, 1.0), np.sqrt(2.0 * speed) - 0.5))
    return np.minimum(np.maximum(-np.copysign(slowing, v), a - 1.0), a + 1.0)
