"""One action after the other as plans that an arm can follow smoothly: no ROS."""

from __future__ import annotations

import math

import numpy as np

from robot_value.deploy.ticking import spline_velocities
from robot_value.types import Spec


class Targets:
    """An action is reached after one step, at the speed that the actions before it had; then the arm stays there."""

    def __init__(self, spec: Spec, hold: float) -> None:
        self.dt, self._absolute = spec.dt, all(part.reference == "absolute" for part in spec.parts)
        # Increments must not go on by themselves; targets may be held.
        self._points = max(1, math.ceil(hold / spec.dt - 1e-6)) if self._absolute else 1
        self._before: list[tuple[float, np.ndarray]] = []  # s and float64[A] of the last two

    def plan(self, action: np.ndarray, now: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions float64[K, A] and velocities float64[K, A] per s, at `now` s; None: straight lines."""
        points = np.repeat(action[None], self._points, 0)
        if not self._absolute:
            return points, None
        self._before = [each for each in self._before if now - each[0] < self._points * self.dt][-2:]
        velocities = np.zeros_like(points)
        if len(self._before) == 2:
            (_, older), (_, newer) = self._before
            velocities[0] = spline_velocities(np.stack([newer, action]), self.dt, older)[0]
        self._before.append((now, action))
        return points, velocities
