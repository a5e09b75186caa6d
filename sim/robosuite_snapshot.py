"""Everything that lets a robosuite environment go on as if it had never stopped, as plain values.

MuJoCo's integration state holds the warm start; the model holds what a reset may move (Door's frame, PickPlace's
visual objects); the rest is robosuite's: controller goals, the gripper's ramp, clocks, observables, the task's flags.
After a reset robosuite draws no random number, so there is no generator to save here; an expert saves its own.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_CONTROLLER = ("goal_pos", "goal_ori", "goal_qpos", "goal_qvel", "initial_joint", "joint_pos", "joint_vel")
_CLOCKS = ("timestep", "cur_time", "done")
_TASK = ("objects_in_bins", "objects_on_pegs")
_OBSERVABLE = ("_time_since_last_sample", "_sampled", "_current_delay", "_current_observed_value")
_MODEL = ("body_pos", "body_quat")


def save(env: Any) -> dict[str, Any]:
    model, data = env.sim.model._model, env.sim.data._data
    physics = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, data, physics, _STATE)
    return {
        "physics": physics,
        "model": {name: getattr(model, name).copy() for name in _MODEL},
        "controllers": {name: _take(part, _CONTROLLER) for name, part in env.robots[0].part_controllers.items()},
        "gripper": np.array(env.robots[0].gripper["right"].current_action),
        "env": _take(env, _CLOCKS + _TASK),
        "observables": {name: _take(o, _OBSERVABLE) for name, o in env._observables.items()},
    }


def load(env: Any, state: dict[str, Any]) -> None:
    """Positions, contacts and velocities are recomputed from the state, as after a control step."""
    model, data = env.sim.model._model, env.sim.data._data
    for name, value in state["model"].items():
        getattr(model, name)[:] = value
    mujoco.mj_resetData(model, data)  # clears warnings and anything a previous row left behind
    mujoco.mj_setState(model, data, state["physics"], _STATE)
    mujoco.mj_step1(model, data)
    for name, values in state["controllers"].items():
        _give(env.robots[0].part_controllers[name], values)
        env.robots[0].part_controllers[name].new_update = True  # what it cached belongs to another state
    env.robots[0].gripper["right"].current_action = state["gripper"].copy()
    _give(env, state["env"])
    env._obs_cache = {}
    for name, values in state["observables"].items():
        _give(env._observables[name], values)


def _take(owner: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _copy(getattr(owner, name)) for name in names if hasattr(owner, name)}


def _give(owner: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(owner, name, _copy(value))


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
