"""What turns a task's plan into a driver: phase memory, servo, noise, and their exact save and restore.

A plan is a function (scene, memory, faults) -> Target. Everything that changes lives in Memory, two vectors and one
generator. Actions: robosuite's OSC_POSE deltas in the robot's base frame, whose axes are the world's in all our tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .expert_quality import Faults
from .expert_scene import Scene, rotation_vector

METRES_PER_UNIT = 0.05  # an action of 1 puts the OSC goal this far from the current pose
RADIANS_PER_UNIT = 0.5
TURN_SPEED = 0.7  # largest rotation action: at 1 the arm may flip into another elbow or wrist posture
NOISE_MEMORY = 0.8  # AR(1) coefficient of the action noise per control step
NOISE_SCALE = np.array([1, 1, 1, 0.2, 0.2, 0.2])  # rotations get a fifth: 0.3 of 0.5 rad would spoil any grasp
INTEGRAL_RATE = 0.2  # share of the error added per control step
INTEGRAL_RANGE = 0.03  # m, errors below this are integrated
INTEGRAL_LIMIT = 0.04  # m


@dataclass
class Memory:
    """Where in its plan an expert is."""

    phase: str = "reach"
    ticks: int = 0  # control steps since the phase began
    attempts: int = 0  # attempts given up so far
    notes: dict[str, Any] = field(default_factory=dict)  # what a phase fixed when it began; floats and lists

    def enter(self, phase: str, **notes: Any) -> None:
        self.phase, self.ticks = phase, 0
        self.notes |= notes

    def restart(self, phase: str = "reach") -> None:
        """Give this attempt up and begin another."""
        self.attempts += 1
        self.notes = {}
        self.enter(phase)


@dataclass(frozen=True)
class Target:
    """Where the gripper should be now."""

    position: np.ndarray  # float64[3], m, world, of the grip site
    rotation: np.ndarray  # float64[3, 3], world
    close: bool
    gain: float = 1.0  # 1 puts the OSC goal onto the target, where it stalls 2-3 cm short when the arm is stretched


Plan = Callable[[Scene, Memory, Faults], Target]


class ScriptedExpert:
    """Plays a plan with one episode's faults."""

    def __init__(self, env: Any, plan: Plan, faults: Faults, rng: np.random.Generator) -> None:
        self._scene, self._plan, self._faults, self._rng = Scene(env), plan, faults, rng
        self._memory = Memory()
        self._integral = np.zeros(3)  # m
        self._noise = np.zeros(6)

    @property
    def latents(self) -> dict[str, Any]:
        """JSON values: this episode's faults."""
        return asdict(self._faults) | {"grasp_offset_m": list(self._faults.grasp_offset_m)}

    @property
    def phase(self) -> str:
        return self._memory.phase

    def action(self) -> np.ndarray:
        """float32[7] in [-1, 1]: translation, rotation (axis-angle), gripper (+1 closes)."""
        self._scene.refresh()
        before = self._memory.phase
        target = self._plan(self._scene, self._memory, self._faults)
        if self._memory.phase != before:
            self._integral[:] = 0
        self._memory.ticks += 1
        arm = self._servo(target) + self._next_noise()
        return np.append(np.clip(arm, -1, 1), 1.0 if target.close else -1.0).astype(np.float32)

    def save(self) -> dict[str, Any]:
        """Plain values and arrays, for `load` on any expert of the same task."""
        return {
            "faults": asdict(self._faults),
            "memory": asdict(self._memory),
            "integral": self._integral.copy(),
            "noise": self._noise.copy(),
            "rng": self._rng.bit_generator.state,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._faults = Faults(**state["faults"])
        self._memory = Memory(**state["memory"] | {"notes": dict(state["memory"]["notes"])})
        self._integral, self._noise = state["integral"].copy(), state["noise"].copy()
        self._rng.bit_generator.state = state["rng"]

    def _servo(self, target: Target) -> np.ndarray:
        """float64[6]: u = (gain * e + integral of e) / unit, limited."""
        error = target.position - self._scene.grip
        if np.linalg.norm(error) < INTEGRAL_RANGE:
            self._integral = np.clip(self._integral + INTEGRAL_RATE * error, -INTEGRAL_LIMIT, INTEGRAL_LIMIT)
        gain, speed = target.gain * self._faults.gain, self._faults.speed
        move = (gain * error + self._integral) / METRES_PER_UNIT
        turn = gain * rotation_vector(target.rotation @ self._scene.rotation.T) / RADIANS_PER_UNIT
        return np.concatenate([np.clip(move, -speed, speed), np.clip(turn, -TURN_SPEED, TURN_SPEED)])

    def _next_noise(self) -> np.ndarray:
        """float64[6]: n' = a n + sqrt(1 - a^2) sigma w, whose std stays sigma."""
        fresh = self._rng.standard_normal(6) * self._faults.noise_sigma * NOISE_SCALE
        self._noise = NOISE_MEMORY * self._noise + np.sqrt(1 - NOISE_MEMORY**2) * fresh
        return self._noise
