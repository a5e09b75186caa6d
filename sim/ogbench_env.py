"""OGBench manipulation (Park et al., ICLR 2025; ogbench 1.2) as functions: build, start, step, read, save, load.

OGBench leaves three things to chance or behind: its reset settles the scene with an unseeded action, `mj_step`
leaves site poses one substep (2 ms) behind the positions, and locks and colours live in the compiled model.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from mujoco.rendering.classic import gl_context as renderer_contexts

from robot_value.components import UnknownComponent, unknown
from robot_value.types import ActionPart

from .robosuite_render import gl_context

# family -> (module and class below ogbench.manipspace.envs, env_type, OGBench's step limit)
FAMILIES: dict[str, tuple[str, str, str, int]] = {
    "cube-single": ("cube_env", "CubeEnv", "single", 200),
    "cube-double": ("cube_env", "CubeEnv", "double", 500),
    "cube-triple": ("cube_env", "CubeEnv", "triple", 1000),
    "cube-quadruple": ("cube_env", "CubeEnv", "quadruple", 1000),
    "cube-octuple": ("cube_env", "CubeEnv", "octuple", 1500),
    "scene": ("scene_env", "SceneEnv", "scene", 750),
    "puzzle-3x3": ("puzzle_env", "PuzzleEnv", "3x3", 500),
    "puzzle-4x4": ("puzzle_env", "PuzzleEnv", "4x4", 500),
    "puzzle-4x5": ("puzzle_env", "PuzzleEnv", "4x5", 1000),
    "puzzle-4x6": ("puzzle_env", "PuzzleEnv", "4x6", 1000),
}
TASKS_PER_FAMILY = 5
CAMERA = "front_pixels"
TIMESTEP = 0.002  # s, OGBench's physics step

# One OGBench action unit: m, m, m, rad, gripper opening.
SCALE = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
PARTS = (
    ActionPart("effector", 0, 3, "position", "m", (-0.05,) * 3, (0.05,) * 3, "current", frame="world"),
    ActionPart("yaw", 3, 4, "rotation", "rad", (-0.3,), (0.3,), "current", "axis_angle", "world"),
    ActionPart("gripper", 4, 5, "gripper", "1", (-1.0,), (1.0,), "current", sign=1, width=0.085),
)

# What an episode changes outside mjSTATE_INTEGRATION: in the model, in derived data, in the Python object.
_MODEL = ("dof_damping", "site_pos", "geom_rgba", "mat_rgba")
_DERIVED = ("site_xpos", "site_xmat", "cfrc_ext")
_PYTHON = (
    *("_success", "_prev_qpos", "_prev_qvel", "cur_task_info"),
    *("_cur_button_states", "_prev_button_states", "_target_button_states", "_target_drawer_pos", "_target_window_pos"),
)


def all_tasks() -> list[str]:
    return [f"{family}-task{i}" for family in FAMILIES for i in range(1, TASKS_PER_FAMILY + 1)]


def parse(task: str) -> tuple[str, int]:
    """Family and 0-based task number of e.g. "cube-single-task1"."""
    if task not in all_tasks():
        raise UnknownComponent(unknown("OGBench task", task, all_tasks()))
    family, _, number = task.rpartition("-task")
    return family, int(number) - 1


def make_env(family: str, dt: float, image_size: int) -> Any:
    """A compiled environment of the family in OGBench's task mode; images look like its `visual-` tasks."""
    base, env_type = _environment(family)
    from gymnasium.spaces import Box

    # OGBench draws its settling actions from a new, unseeded space each time; one seedable space replaces it.
    seedable = type(base.__name__, (base,), {"action_space": Box(-1.0, 1.0, (5,), np.float32)})
    look = (
        {"ob_type": "pixels", "visualize_info": False, "width": image_size, "height": image_size} if image_size else {}
    )
    if image_size:
        renderer_contexts.GLContext = gl_context  # else mujoco.Renderer takes what suited when mujoco was imported
    order = {} if family.startswith("puzzle") else {"permute_blocks": False}
    env = seedable(env_type, physics_timestep=TIMESTEP, control_timestep=dt, **look, **order)
    env.reset(seed=0)  # compiles; only later resets take the path that is the same every time
    env._ob_type = "states"  # `pixels` has done its work on the colours; do not render inside reset and step
    return env


def task_infos(family: str) -> list[Mapping[str, Any]]:
    """OGBench's starts and goals of the family's five tasks; nothing is compiled."""
    base, env_type = _environment(family)
    return base(env_type).task_infos


def start(env: Any, task_info: Mapping[str, Any], seed: int) -> None:
    """Reset to OGBench's start of `task_info`, bit-identical for the same seed whatever was played before."""
    env.action_space.seed(seed)
    env.reset(options={"task_info": dict(task_info)}, seed=seed)
    env._data.time = 0.0


def step(env: Any, action: np.ndarray) -> bool:
    """One control step with an action in OGBench's units; True where the simulation became unstable.

    The same calls as OGBench's `step` (tests compare them), without its two spare observations.
    """
    data, warnings, chance = env._data, _warnings(env), env.np_random.bit_generator.state
    before = data.time
    env.set_control(action)
    env.pre_step()
    mujoco.mj_step(env._model, data, nstep=env._n_steps)
    mujoco.mj_rnePostConstraint(env._model, data)  # contact forces, for gripper_contact
    env.post_step()
    teleported = chance != env.np_random.bit_generator.state  # `scene` puts a diverged cube back at random
    return bool(_warnings(env) != warnings or data.time <= before or teleported)


def successes(env: Any) -> np.ndarray:
    """bool per object of the task, in OGBench's order."""
    found = env._compute_successes()
    groups = found if isinstance(found, tuple) else (found,)
    return np.concatenate([np.atleast_1d(group) for group in groups]).astype(bool)


def fields(env: Any) -> tuple[tuple[str, str], ...]:
    """(name, unit) of every state dim, the dims of OGBench's observation in SI units instead of its scaled ones."""
    joints = [(f"joint_{i}", "rad") for i in range(6)] + [(f"joint_{i}_velocity", "rad/s") for i in range(6)]
    effector = [(f"effector_{axis}", "m") for axis in "xyz"]
    rest = [("effector_cos_yaw", "1"), ("effector_sin_yaw", "1"), ("gripper_closed", "1"), ("gripper_contact", "1")]
    cubes = [entry for i in range(getattr(env, "_num_cubes", 0)) for entry in _cube_fields(i)]
    buttons = [entry for i in range(getattr(env, "_num_buttons", 0)) for entry in _button_fields(i)]
    slides = [(f"{name}{of}", unit) for name in _slides(env) for of, unit in (("", "m"), ("_velocity", "m/s"))]
    return tuple(joints + effector + rest + cubes + buttons + slides)


def read(env: Any) -> np.ndarray:
    """float32[S], in the order and units of `fields`."""
    info = env.compute_ob_info()
    yaw = info["proprio/effector_yaw"]
    values = [
        info["proprio/joint_pos"],
        info["proprio/joint_vel"],
        info["proprio/effector_pos"],
        np.cos(yaw),
        np.sin(yaw),
    ]
    values += [info["proprio/gripper_opening"], info["proprio/gripper_contact"]]
    for i in range(getattr(env, "_num_cubes", 0)):
        yaw = info[f"privileged/block_{i}_yaw"]
        values += [info[f"privileged/block_{i}_pos"], info[f"privileged/block_{i}_quat"], np.cos(yaw), np.sin(yaw)]
    for i in range(getattr(env, "_num_buttons", 0)):
        one_hot = np.eye(2)[info[f"privileged/button_{i}_state"]]
        values += [one_hot, info[f"privileged/button_{i}_pos"], info[f"privileged/button_{i}_vel"]]
    for name in _slides(env):
        values += [info[f"privileged/{name}_pos"], info[f"privileged/{name}_vel"]]
    return np.concatenate(values).astype(np.float32)


def save(env: Any) -> dict[str, Any]:
    """Everything the next step depends on."""
    size = mujoco.mj_stateSize(env._model, mujoco.mjtState.mjSTATE_INTEGRATION)
    physics = np.empty(size)
    mujoco.mj_getState(env._model, env._data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {
        "physics": physics,
        "model": {name: getattr(env._model, name).copy() for name in _MODEL},
        "derived": {name: getattr(env._data, name).copy() for name in _DERIVED},
        "python": {name: _copy(getattr(env, name)) for name in _PYTHON if hasattr(env, name)},
        "random": env.np_random.bit_generator.state,
    }


def load(env: Any, state: Mapping[str, Any]) -> None:
    mujoco.mj_setState(env._model, env._data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
    _write(env._model, state["model"])
    _write(env._data, state["derived"])
    for name, value in state["python"].items():
        setattr(env, name, _copy(value))
    env.np_random.bit_generator.state = state["random"]


def _environment(family: str) -> tuple[type, str]:
    """OGBench's class and its env_type."""
    module, name, env_type, _ = FAMILIES[family]
    try:
        import ogbench  # noqa: F401

        return getattr(importlib.import_module(f"ogbench.manipspace.envs.{module}"), name), env_type
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'OGBench tasks need the "ogbench" extra ({error.name} is missing): pip install "robot_value[ogbench]"'
        ) from error


def _cube_fields(i: int) -> list[tuple[str, str]]:
    position = [(f"cube_{i}_{axis}", "m") for axis in "xyz"]
    rotation = [(f"cube_{i}_{name}", "1") for name in ("qw", "qx", "qy", "qz", "cos_yaw", "sin_yaw")]
    return position + rotation


def _button_fields(i: int) -> list[tuple[str, str]]:
    return [(f"button_{i}_off", "1"), (f"button_{i}_on", "1"), (f"button_{i}", "m"), (f"button_{i}_velocity", "m/s")]


def _slides(env: Any) -> tuple[str, ...]:
    return ("drawer", "window") if hasattr(env, "_target_drawer_pos") else ()


def _warnings(env: Any) -> int:
    return int(env._data.warning.number.sum())


def _write(target: Any, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        getattr(target, name)[:] = array


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
