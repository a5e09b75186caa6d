"""Privileged state for scripted experts, and the few rotations they need."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # grip site pointing down, fingers along y


class Scene:
    """Poses as a pure function of qpos: kinematics run on scratch memory, the simulation is untouched.

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
        self.grip = self._data.site_xpos[self._site].copy()  # float64[3], m, world
        self.rotation = self._data.site_xmat[self._site].reshape(3, 3).copy()  # z points out of the hand

    def body(self, name: str) -> np.ndarray:
        """float64[3], m, world."""
        return self._data.body(name).xpos.copy()

    def body_rotation(self, name: str) -> np.ndarray:
        """float64[3, 3], world."""
        return self._data.body(name).xmat.reshape(3, 3).copy()

    def site(self, name: str) -> np.ndarray:
        """float64[3], m, world."""
        return self._data.site(name).xpos.copy()

    def joint(self, name: str) -> float:
        """m or rad."""
        return float(self._data.qpos[self._model.joint(name).qposadr[0]])


@lru_cache(maxsize=4)
def _scratch(model: mujoco.MjModel) -> mujoco.MjData:
    return mujoco.MjData(model)


def down(yaw: float, tilt: float = 0.0) -> np.ndarray:
    """A gripper that points down, fingers opening along y; leant towards -y by `tilt`, then turned by `yaw`, rad."""
    c, s = np.cos(tilt), np.sin(tilt)
    return upright(yaw) @ np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]]) @ DOWN


def upright(yaw: float) -> np.ndarray:
    """Rotation about the vertical."""
    return about(np.array([0.0, 0.0, 1.0]), yaw)


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation about a unit axis: R = I + sin(a) K + (1 - cos(a)) K^2 (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def yaw_of(rotation: np.ndarray, symmetry: float = 2 * np.pi) -> float:
    """Heading of a body's x axis in the world, folded into [-symmetry/2, symmetry/2), rad."""
    heading = np.arctan2(rotation[1, 0], rotation[0, 0])
    return float((heading + symmetry / 2) % symmetry - symmetry / 2)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """float64[3]: axis times angle, rad."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def angle_between(rotation: np.ndarray, other: np.ndarray) -> float:
    """rad."""
    return float(np.linalg.norm(rotation_vector(rotation @ other.T)))
