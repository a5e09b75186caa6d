"""robosuite's control step without its Python overhead: the same torques, the same substeps, the same physics.

OSC (Khatib 1987; robosuite OperationalSpaceController), evaluated at every MuJoCo substep:
    tau = J^T [Lambda_p (kp_p e_p - kd_p v); Lambda_o (kp_o e_o - kd_o w)] + bias + N^T M (10 (q0 - q) - 2 sqrt(10) qd)
with Lambda = pinv(J M^-1 J^T) per block and N = I - M^-1 J^T Lambda J. The order of operations and the memory layouts
follow robosuite's, because BLAS rounds by them.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numba import njit


class ControlStep:
    """Drives one robosuite environment: set the goals, then `substeps` times torque, mj_step2, mj_step1.

    robosuite begins a substep with mj_step1; we end with it. So between control steps every position and velocity
    quantity (poses, contacts, Jacobians) belongs to the present qpos and qvel, and a restored state has the same ones.
    """

    def __init__(self, env: Any) -> None:
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self._env, self._robot = env, env.robots[0]
        self._substeps = int(env.control_timestep / env.model_timestep)
        nv = self._model.nv
        self._jacobian = np.zeros((2, 3, nv))  # translation and rotation of the grip site
        self._full_mass = np.zeros((nv, nv))
        self.bind()

    def bind(self) -> None:
        """Take the controllers anew: robosuite makes new ones at every reset.

        Their first torque after it would come from the mass matrix before the fingers were placed (1e-6 in the state
        after a control step); we have them look again, plain `env.step` included.
        """
        controllers = self._robot.part_controllers
        for controller in controllers.values():
            controller.new_update = True
        self._arm, self._gripper = controllers["right"], controllers["right_gripper"]
        self._size = len(self._arm.qvel_index)
        leading = np.arange(self._size)
        if not (np.array_equal(self._arm.qvel_index, leading) and np.array_equal(self._arm.qpos_index, leading)):
            raise ValueError(
                f"expected the arm's joints to be the model's first {self._size}, got {self._arm.qpos_index}"
            )
        self._site = self._model.site(self._arm.ref_name).id
        self._base = self._model.site(f"{self._arm.naming_prefix}{self._arm.part_name}_center").id
        self._limits = self._model.actuator_ctrlrange[: self._size].T.copy()
        self._kp, self._kd = np.asarray(self._arm.kp, float), np.asarray(self._arm.kd, float)
        self._torque = self._osc_torque if self._arm.name == "OSC_POSE" else self._joint_torque

    def __call__(self, action: np.ndarray) -> None:
        """One control period. `action`: float64[A]."""
        self._env.timestep += 1
        self._set_goals(action)
        torque, model, data = self._torque, self._model, self._data
        for _ in range(self._substeps):
            torque()
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)
        self._env.cur_time += self._env.control_timestep

    def _set_goals(self, action: np.ndarray) -> None:
        """robosuite's own goal arithmetic, on poses read here once instead of by every controller."""
        arm, gripper, data = self._arm, self._gripper, self._data
        origin, axes = data.site_xpos[self._base].copy(), data.site_xmat[self._base].reshape(3, 3).copy()
        arm.update_origin(origin, axes)
        arm.ref_pos[:] = data.site_xpos[self._site]
        arm.ref_ori_mat[:] = data.site_xmat[self._site].reshape(3, 3)
        arm.new_update = gripper.new_update = False  # spares set_goal the Jacobians, which it does not use
        arm.set_goal(action[: arm.control_dim])
        gripper.set_goal(self._robot.gripper["right"].format_action(action[arm.control_dim :]))
        arm.new_update = gripper.new_update = True
        fingers = self._model.actuator_ctrlrange[gripper.actuator_index]
        middle, half = 0.5 * (fingers[:, 1] + fingers[:, 0]), 0.5 * (fingers[:, 1] - fingers[:, 0])
        data.ctrl[gripper.actuator_index] = np.clip(middle + half * gripper.goal_qvel, fingers[:, 0], fingers[:, 1])
        if self._arm.name == "OSC_POSE":
            self._goal_position = origin + np.dot(axes, arm.goal_pos)
            self._goal_rotation = np.dot(axes, arm.goal_ori)

    def _osc_torque(self) -> None:
        data, jacobian = self._data, self._jacobian
        mujoco.mj_jacSite(self._model, data, jacobian[0], jacobian[1], self._site)
        mujoco.mj_fullM(self._model, self._full_mass, data.qM)
        osc_torque(
            data.site_xpos[self._site],
            data.site_xmat[self._site],
            jacobian,
            self._full_mass,
            data.qpos,
            data.qvel,
            data.qfrc_bias,
            self._goal_position,
            self._goal_rotation,
            self._kp,
            self._kd,
            self._arm.initial_joint,
            self._limits,
            data.ctrl,
        )

    def _joint_torque(self) -> None:
        data = self._data
        mujoco.mj_fullM(self._model, self._full_mass, data.qM)
        joint_torque(
            self._full_mass,
            data.qpos,
            data.qvel,
            data.qfrc_bias,
            np.asarray(self._arm.goal_qpos, float),
            self._kp,
            self._kd,
            self._limits,
            data.ctrl,
        )


@njit(cache=True)
def osc_torque(
    position,  # float64[3], m, world
    rotation,  # float64[9]
    jacobian,  # float64[2, 3, nv]
    full_mass,  # float64[nv, nv]
    qpos,
    qvel,
    bias,  # float64[nv], gravity and Coriolis
    goal_position,  # float64[3], m, world
    goal_rotation,  # float64[3, 3]
    kp,  # float64[6]
    kd,  # float64[6]
    posture,  # float64[n], rad
    limits,  # float64[2, n], N m
    ctrl,  # float64[nu], written: N m
):
    n = len(posture)
    velocity, spin = np.dot(jacobian[0], qvel), np.dot(jacobian[1], qvel)
    j_pos, j_rot = jacobian[0, :, :n].copy(), jacobian[1, :, :n].copy()
    j = np.vstack((j_pos, j_rot))
    mass = full_mass[:n, :n].copy().T  # symmetric; column-major as robosuite's
    current = rotation.reshape(3, 3)
    error = np.zeros(3)
    for k in range(3):
        error += np.cross(current[:, k], goal_rotation[:, k])
    error *= 0.5
    force = (goal_position - position) * kp[:3] + -velocity * kd[:3]
    torque = error * kp[3:] + -spin * kd[3:]

    inverse = np.linalg.inv(mass)
    lambda_full = np.linalg.pinv(np.dot(np.dot(j, inverse), j.transpose()))
    lambda_pos = np.linalg.pinv(np.dot(np.dot(j_pos, inverse), j_pos.transpose()))
    lambda_rot = np.linalg.pinv(np.dot(np.dot(j_rot, inverse), j_rot.transpose()))
    wrench = np.concatenate((np.dot(lambda_pos, force), np.dot(lambda_rot, torque)))
    j_bar = np.dot(np.dot(inverse, j.transpose()), lambda_full)
    nullspace = np.eye(n) - np.dot(j_bar, j)
    pull = np.dot(mass, 10 * (posture - qpos[:n]) - np.sqrt(10) * 2 * qvel[:n])
    tau = np.dot(j.T, wrench) + bias[:n] + np.dot(nullspace.transpose(), pull)
    for i in range(n):
        ctrl[i] = min(max(tau[i], limits[0, i]), limits[1, i])


@njit(cache=True)
def joint_torque(full_mass, qpos, qvel, bias, goal, kp, kd, limits, ctrl):
    """tau = M (kp (goal - q) - kd qd) + bias: robosuite's JOINT_POSITION. Shapes as in osc_torque, goal float64[n]."""
    n = len(goal)
    desired = (goal - qpos[:n]) * kp + -qvel[:n] * kd
    tau = np.dot(full_mass[:n, :n].copy().T, desired) + bias[:n]
    for i in range(n):
        ctrl[i] = min(max(tau[i], limits[0, i]), limits[1, i])
