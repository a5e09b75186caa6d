"""What every scripted expert shares: reading the scene, the phase memory, the servo from targets to OSC deltas.

A task's plan is a function (scene, memory, faults) -> Target. Everything that changes lives in Memory, the servo's two
vectors and one generator, so an expert saves and restores exactly. Actions: robosuite's OSC_POSE deltas in the robot's
base frame, whose axes are the world's in all our tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

METRES_PER_UNIT = 0.05  # an action of 1 moves the OSC goal this far from the current pose
RADIANS_PER_UNIT = 0.5
NOISE_MEMORY = 0.8  # AR(1) coefficient of the action noise per control step
NOISE_SCALE = np.array([1, 1, 1, 0.2, 0.2, 0.2])  # rotations get a fifth: 0.3 of 0.5 rad would drop any grasp
TURN_SPEED = 0.7  # largest rotation action: at 1 the arm may flip into another elbow or wrist posture
CLOSE_STEPS = 7  # control steps until the fingers hold
INTEGRAL_RANGE = 0.03  # m, errors below this are integrated
INTEGRAL_LIMIT = 0.04  # m
DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # grip site pointing down, fingers along y


@dataclass(frozen=True)
class Faults:
    """What was drawn for one episode. Displacements apply to the first grasp only; a retry is clean."""

    grasp_offset_m: tuple[float, float] = (0.0, 0.0)  # world x, y by which the grasp misses its point
    premature_close_m: float = 0.0  # the fingers close this far before the grasp point
    early_release_m: float = 0.0  # the object is let go this far from where it belongs
    gain: float = 1.0  # multiplies the servo's gains
    speed: float = 1.0  # largest translation action, 1 = 5 cm goal offset
    noise_sigma: float = 0.0  # std of the AR(1) noise on the actions
    retry: bool = True  # whether a failed grasp is tried again


@dataclass
class Memory:
    """Where in its plan an expert is."""

    phase: str = "reach"
    ticks: int = 0  # control steps since the phase began
    attempts: int = 0  # grasps given up so far
    notes: dict[str, Any] = field(default_factory=dict)  # what a phase fixed when it began; floats and lists

    def enter(self, phase: str, **notes: Any) -> None:
        self.phase, self.ticks = phase, 0
        self.notes |= notes

    def restart(self) -> None:
        """Back to the first phase for another grasp."""
        self.attempts += 1
        self.notes = {}
        self.enter("reach")


@dataclass(frozen=True)
class Target:
    """Where the gripper should be now."""

    position: np.ndarray  # float64[3], m, world, of the grip site
    rotation: np.ndarray  # float64[3, 3], world
    close: bool
    gain: float = 1.0  # 1 sends the OSC goal onto the target; above 1 overcomes its stall


class Scene:
    """Privileged state as a pure function of qpos: kinematics run on scratch memory, the simulation is untouched.

    robosuite's own xpos lag qpos by a substep and differ after a restore; an expert that read them would not replay.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._site = env.robots[0].eef_site_id["right"]
        self.refresh()

    def refresh(self) -> None:
        self._model = self._env.sim.model._model
        self._data = _scratch(self._model)
        self._data.qpos[:] = self._env.sim.data._data.qpos
        mujoco.mj_kinematics(self._model, self._data)
        self.grip = self._data.site_xpos[self._site].copy()  # float64[3], m
        self.rotation = self._data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def opening(self) -> float:
        """Distance between the finger pads, m; 0.08 is fully open."""
        return self.joint("gripper0_right_finger_joint1") - self.joint("gripper0_right_finger_joint2")

    def body(self, name: str) -> np.ndarray:
        return self._data.body(name).xpos.copy()

    def body_rotation(self, name: str) -> np.ndarray:
        return self._data.body(name).xmat.reshape(3, 3).copy()

    def site(self, name: str) -> np.ndarray:
        return self._data.site(name).xpos.copy()

    def joint(self, name: str) -> float:
        return float(self._data.qpos[self._model.joint(name).qposadr[0]])


@lru_cache(maxsize=4)
def _scratch(model: mujoco.MjModel) -> mujoco.MjData:
    return mujoco.MjData(model)


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
        phase = self._memory.phase
        target = self._plan(self._scene, self._memory, self._faults)
        if self._memory.phase != phase:
            self._integral[:] = 0
        self._memory.ticks += 1
        arm = self._servo(target) + self._draw_noise()
        return np.append(np.clip(arm, -1, 1), 1.0 if target.close else -1.0).astype(np.float32)

    def save(self) -> dict[str, Any]:
        """Plain values and arrays that `load` takes on any expert of the same task."""
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
        error = target.position - self._scene.grip
        if np.linalg.norm(error) < INTEGRAL_RANGE:
            self._integral = np.clip(self._integral + 0.2 * error, -INTEGRAL_LIMIT, INTEGRAL_LIMIT)
        gain, speed = target.gain * self._faults.gain, self._faults.speed
        move = (gain * error + self._integral) / METRES_PER_UNIT
        turn = gain * rotation_vector(target.rotation @ self._scene.rotation.T) / RADIANS_PER_UNIT
        return np.concatenate([np.clip(move, -speed, speed), np.clip(turn, -TURN_SPEED, TURN_SPEED)])

    def _draw_noise(self) -> np.ndarray:
        fresh = self._rng.standard_normal(6) * self._faults.noise_sigma * NOISE_SCALE
        self._noise = NOISE_MEMORY * self._noise + np.sqrt(1 - NOISE_MEMORY**2) * fresh
        return self._noise


def pick(
    scene: Scene,
    memory: Memory,
    faults: Faults,
    point: np.ndarray,
    yaw: float,
    tilt: float = 0.0,
    clearance: float = 0.06,
    gain: float = 1.0,
) -> Target:
    """Phases reach, descend, close on a grasp at `point` (float64[3], m); then the phase is "carry".

    `yaw` (rad) is taken when the grasp begins and kept; `point` may move until the fingers close.
    """
    rotation = down(memory.notes.setdefault("yaw", float(yaw)), tilt)
    if memory.phase == "close":
        if memory.ticks >= CLOSE_STEPS:
            memory.enter("carry", start=scene.grip.tolist())
        return Target(np.array(memory.notes["at"]), rotation, close=True, gain=gain)
    goal = point + grasp_fault(memory, faults, rotation)
    above = goal - (clearance - (0 if memory.attempts else faults.premature_close_m)) * rotation[:, 2]
    error = rotation.T @ (scene.grip - (above if memory.phase == "reach" else goal))
    centred = np.linalg.norm(error[:2]) < 0.012
    if memory.phase == "reach":
        if (centred and abs(error[2]) < 0.03 and angle_between(rotation, scene.rotation) < 0.12) or memory.ticks > 60:
            memory.enter("descend")
        return Target(above, rotation, close=False, gain=gain)
    if (centred and abs(error[2]) < 0.006) or memory.ticks > 25:
        memory.enter("close", at=scene.grip.tolist())
    return Target(goal, rotation, close=False, gain=gain)


PICK_PHASES = ("reach", "descend", "close")


def grasp_fault(memory: Memory, faults: Faults, rotation: np.ndarray) -> np.ndarray:
    """float64[3], m: how far this attempt's grasp point is displaced, sideways and back along the approach."""
    if memory.attempts:
        return np.zeros(3)
    return np.array([*faults.grasp_offset_m, 0.0]) - faults.premature_close_m * rotation[:, 2]


def slipped(scene: Scene, memory: Memory, item: np.ndarray, limit: float = 0.03) -> bool:
    """Whether the object's origin is no longer where it was, seen from the gripper, when this was first asked."""
    seen = scene.rotation.T @ (item - scene.grip)
    held = memory.notes.setdefault("held", seen.tolist())
    return bool(np.linalg.norm(seen - held) > limit)


def down(yaw: float, tilt: float = 0.0) -> np.ndarray:
    """Rotation of a gripper that points down, its fingers opening along y; leant to -y by `tilt`, then turned by `yaw`."""
    c, s = np.cos(tilt), np.sin(tilt)
    return upright(yaw) @ np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]]) @ DOWN


def upright(yaw: float) -> np.ndarray:
    """Rotation about the vertical."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def angle_between(rotation: np.ndarray, other: np.ndarray) -> float:
    """rad."""
    return float(np.linalg.norm(rotation_vector(rotation @ other.T)))


def yaw_of(rotation: np.ndarray, symmetry: float = 2 * np.pi) -> float:
    """Heading of a body's x axis in the world, folded into [-symmetry/2, symmetry/2)."""
    heading = np.arctan2(rotation[1, 0], rotation[0, 0])
    return float((heading + symmetry / 2) % symmetry - symmetry / 2)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle of a rotation matrix, rad."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
