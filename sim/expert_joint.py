"""A scripted expert's Cartesian actions as absolute joint targets: resolved motion rates (Whitney 1969).

rates = J^T (J J^T + damping^2 I)^-1 twist + posture pull in the null space, smoothed; the target is their integral from
where the arm rested. So the targets lead the arm by what its controller lags, and are gentle enough for a real one.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from .expert_common import METRES_PER_UNIT, RADIANS_PER_UNIT, ScriptedExpert

RATE = 3.0  # 1/s: an action of 1 moves at 15 cm/s; OSC's kp of 150 makes it 30 cm/s, more than a Panda may accelerate
DAMPING = 0.02
POSTURE = 0.5  # 1/s, back to the joints of the reset where the task leaves a choice
SMOOTHING = 0.5  # share of the new rates that is taken over per control step
LEAD = 0.5  # rad that a target may be away from its joint: a blocked arm must not wind it up
KEPT = ("_posture", "_target", "_rates")


class JointExpert:
    """Plays `expert` in a robosuite environment with control joint_absolute."""

    def __init__(self, env: Any, expert: ScriptedExpert, low: np.ndarray, high: np.ndarray) -> None:
        """`low`, `high`: float64[7], rad."""
        self._env, self._expert, self._low, self._high = env, expert, low, high
        self._site = env.robots[0].eef_site_id["right"]
        self._posture = self._joints()
        self._target, self._rates = self._posture.copy(), np.zeros(7)  # rad, rad/s

    @property
    def latents(self) -> dict[str, Any]:
        return self._expert.latents

    @property
    def phase(self) -> str:
        return self._expert.phase

    def action(self) -> np.ndarray:
        """float32[8]: joint targets in rad, gripper (+1 closes)."""
        wanted, here = self._expert.action().astype(np.float64), self._joints()
        twist = RATE * wanted[:6] * np.repeat([METRES_PER_UNIT, RADIANS_PER_UNIT], 3)  # m/s, rad/s
        self._rates = self._rates + SMOOTHING * (self._resolved(twist, here) - self._rates)
        target = self._target + self._rates * self._env.control_timestep
        self._target = np.clip(np.clip(target, here - LEAD, here + LEAD), self._low, self._high)
        return np.append(self._target, wanted[6]).astype(np.float32)

    def save(self) -> dict[str, Any]:
        return {"expert": self._expert.save(), **{name: getattr(self, name) for name in KEPT}}

    def load(self, state: dict[str, Any]) -> None:
        self._expert.load(state["expert"])
        for name in KEPT:
            setattr(self, name, state[name])

    def _joints(self) -> np.ndarray:
        """float64[7], rad"""
        return self._env.sim.data._data.qpos[:7].copy()

    def _resolved(self, twist: np.ndarray, here: np.ndarray) -> np.ndarray:
        """float64[7], rad/s: the joints' rates for the grip site's `twist` float64[6]."""
        model = self._env.sim.model._model
        jacobian = np.zeros((2, 3, model.nv))
        mujoco.mj_jacSite(model, self._env.sim.data._data, jacobian[0], jacobian[1], self._site)
        j = jacobian[:, :, :7].reshape(6, 7)
        inverse = j.T @ np.linalg.inv(j @ j.T + DAMPING**2 * np.eye(6))
        return inverse @ twist + POSTURE * (np.eye(7) - inverse @ j) @ (self._posture - here)
