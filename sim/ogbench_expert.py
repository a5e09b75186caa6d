"""Slot play: OGBench's own plan oracles move cubes among the tasks' start and goal slots (and press, pull, push).

These are OGBench's `play` data with slots +- `jitter` for targets: random targets enter a task's goal seven times less
often, and a critic learns only from goals that are entered. With `slots=0` targets are random, as OGBench's own are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .ogbench_env import SCALE

_TABLE = 0.02  # m, height of a cube's centre on the table
_APART = 0.07  # m, centres of cubes standing side by side, any yaw
_MOVED = 0.04  # m, a target closer than this to the cube is no move (OGBench's success radius)
_RESET_JITTER = 0.015  # m, OGBench moves a starting cube by up to 1 cm per axis
_INTO_DRAWER = 0.3  # chance of aiming a cube at an open drawer: OGBench's p_put_in_drawer
_LOCKED = 0.25  # weight of a locked drawer or window beside 1 for everything else: OGBench's set_new_target
_PLAN = ("_plan", "_t_init", "_t_max", "_done")


def slots(task_infos: Sequence[Mapping[str, Any]], task: int, count: int) -> np.ndarray:
    """float64[<= count, 2], m: distinct start and goal places on the table, those of `task` first."""
    chosen: list[np.ndarray] = []
    for info in [task_infos[task], *task_infos]:
        for xyz in _places(info):
            on_table = abs(xyz[2] - _TABLE) < 1e-3
            if on_table and all(np.linalg.norm(xyz[:2] - other) > _MOVED for other in chosen):
                chosen.append(xyz[:2])
    return np.array(chosen[:count]).reshape(-1, 2)


def play_start(env: Any, task_info: Mapping[str, Any], places: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """`task_info` with a random start that is not solved: cubes on slots, buttons and slides anywhere."""
    info = copy.deepcopy(dict(task_info))
    if "init_xyzs" in info:
        goals = info["goal_xyzs"]
        while True:
            info["init_xyzs"] = _scatter(env, len(goals), places, rng)
            if np.any(np.linalg.norm(info["init_xyzs"] - goals, axis=1) > _MOVED + _RESET_JITTER):
                return info
    if "init" in info:
        info["init"] = {
            "block_xyzs": _scatter(env, len(info["goal"]["block_xyzs"]), places, rng),
            "button_states": _other_states(info["goal"]["button_states"], rng),
            "drawer_pos": rng.uniform(-0.16, 0.0),
            "window_pos": rng.uniform(0.0, 0.2),
        }
        return info
    info["init_button_states"] = _other_states(info["goal_button_states"], rng)
    return info


class PlayExpert:
    """Drives one episode from target to target. `begin`, `save` and `load` belong to the simulator."""

    def __init__(self, env: Any, config: Any) -> None:
        from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

        plan = {"segment_dt": config.segment_dt, "noise": config.noise, "noise_smoothing": config.smoothing}
        puzzle = not hasattr(env, "_num_cubes")
        self._env, self._config = env, config
        self._oracles = {
            "cube": cube_plan.CubePlanOracle(env=env, **plan),
            "button": button_plan.ButtonPlanOracle(env=env, gripper_always_closed=puzzle, **plan),
            "drawer": drawer_plan.DrawerPlanOracle(env=env, **plan),
            "window": window_plan.WindowPlanOracle(env=env, **plan),
        }
        self.latents: dict[str, Any] = {}

    def begin(self, seed: int, places: np.ndarray) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._places = places
        self._kind = ""
        self._target: dict[str, Any] = {}
        quality = {name: getattr(self._config, name) for name in ("noise", "smoothing", "segment_dt", "goal_bias")}
        stack = float(np.random.default_rng([seed, 2]).uniform(*self._config.stack))
        name = "slot play" if self._config.slots else "uniform play"
        self.latents = {"expert": name, **quality, "stack": stack, "slots": places.tolist()}

    def action(self) -> np.ndarray:
        """float32[5], m and rad."""
        info = self._env.compute_ob_info()
        if not self._kind or self._oracles[self._kind].done:
            self._kind, self._target = self._aim()
            with _global_numpy(self._rng):  # the oracles draw from numpy's global generator
                self._oracles[self._kind].reset(None, {**info, **self._target})
        action = self._oracles[self._kind].select_action(None, {**info, **self._target})
        return (action * SCALE).astype(np.float32)

    def save(self) -> dict[str, Any]:
        plan = {name: getattr(self._oracles[self._kind], name) for name in _PLAN} if self._kind else {}
        words = {"kind": self._kind, "target": self._target, "latents": self.latents, "places": self._places}
        return copy.deepcopy({**words, "plan": plan, "random": self._rng.bit_generator.state})

    def load(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))
        self._kind, self._target, self._places = state["kind"], state["target"], state["places"]
        self.latents = state["latents"]
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = state["random"]
        for name, value in state["plan"].items():
            setattr(self._oracles[self._kind], name, value)

    def _aim(self) -> tuple[str, dict[str, Any]]:
        """What to move next and the oracle's view of where to."""
        if not hasattr(self._env, "_num_cubes"):
            return "button", self._button()
        if not hasattr(self._env, "_num_buttons"):
            return "cube", self._cube()
        locks = self._env._cur_button_states
        weights = np.array([float(bool(self._movable())), 1.0, *(1.0 if state else _LOCKED for state in locks)])
        kind = str(self._rng.choice(["cube", "button", "drawer", "window"], p=weights / weights.sum()))
        if kind == "cube":
            return kind, self._cube()
        return kind, self._button() if kind == "button" else self._slide(kind)

    def _button(self) -> dict[str, Any]:
        button = int(self._rng.integers(self._env._num_buttons))
        top = self._env._data.site_xpos[self._env._button_site_ids[button]].copy()
        return {"privileged/target_button": button, "privileged/target_button_top_pos": top}

    def _slide(self, name: str) -> dict[str, Any]:
        """The other end of the drawer or window; its target handle follows from how far the slide has to travel."""
        now = self._env._data.joint(f"{name}_slide").qpos[0]
        near, far, axis = (0.0, -0.16, 1) if name == "drawer" else (0.0, 0.2, 0)
        goal = far if abs(now - near) < abs(now - far) else near
        handle = self._env._data.site_xpos[getattr(self._env, f"_{name}_site_id")].copy()
        handle[axis] += goal - now
        return {f"privileged/target_{name}_pos": goal, f"privileged/target_{name}_handle_pos": handle}

    def _cube(self) -> dict[str, Any]:
        cubes, movable = _cubes(self._env), self._movable()
        unsolved = [i for i in movable if np.linalg.norm(cubes[i] - self._goal(i)) > _MOVED]
        if unsolved and self._rng.uniform() < self._config.goal_bias:
            block = int(self._rng.choice(unsolved))
            return self._place(block, self._goal(block))
        block = int(self._rng.choice(movable))
        others = [i for i in movable if i != block]
        if self._drawer_open() and self._rng.uniform() < _INTO_DRAWER:
            return self._place(block, self._env._drawer_center)
        if others and self._rng.uniform() < self.latents["stack"]:
            return self._place(block, cubes[self._rng.choice(others)] + [0.0, 0.0, 0.04])
        if not len(self._places):  # OGBench's own play does not look for a free place
            return self._place(block, np.array([*self._rng.uniform(*self._env._target_sampling_bounds), _TABLE]))
        xy = _free(self._env, cubes[:, :2], self._places, self._rng)
        return self._place(block, np.array([*xy, _TABLE]))

    def _place(self, block: int, position: np.ndarray) -> dict[str, Any]:
        wobble = self._rng.uniform(-self._config.jitter, self._config.jitter, 2)
        position = position + np.array([*wobble, 0.0])
        yaw = np.array([self._rng.uniform(0.0, 2 * np.pi)])
        where = {"privileged/target_block_pos": position, "privileged/target_block_yaw": yaw}
        return {"privileged/target_block": block, **where}

    def _goal(self, cube: int) -> np.ndarray:
        return self._env._data.mocap_pos[self._env._cube_target_mocap_ids[cube]]

    def _movable(self) -> list[int]:
        """Cubes with nothing on top and not inside the drawer."""
        cubes = _cubes(self._env)
        flat = np.linalg.norm(cubes[:, None, :2] - cubes[None, :, :2], axis=-1) < 0.02
        buried = (flat & (cubes[None, :, 2] > cubes[:, None, 2])).any(1)
        inside = [hasattr(self._env, "_is_in_drawer") and self._env._is_in_drawer(cube) for cube in cubes]
        return [i for i in range(len(cubes)) if not buried[i] and not inside[i]]

    def _drawer_open(self) -> bool:
        return hasattr(self._env, "_drawer_center") and self._env._data.joint("drawer_slide").qpos[0] < -0.12


@contextmanager
def _global_numpy(rng: np.random.Generator) -> Iterator[None]:
    saved = np.random.get_state()
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(saved)


def _places(info: Mapping[str, Any]) -> np.ndarray:
    """float64[n, 3], m: where the task's cubes start and end."""
    if "init_xyzs" in info:
        return np.concatenate([info["init_xyzs"], info["goal_xyzs"]])
    return (
        np.concatenate([info["init"]["block_xyzs"], info["goal"]["block_xyzs"]]) if "init" in info else np.empty((0, 3))
    )


def _cubes(env: Any) -> np.ndarray:
    """float64[n, 3], m: cube centres now."""
    return np.array([env._data.joint(f"object_joint_{i}").qpos[:3] for i in range(env._num_cubes)])


def _free(env: Any, taken: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slot with no cube near it; anywhere free within OGBench's bounds where all slots are taken."""
    free = [place for place in places if np.all(np.linalg.norm(taken - place, axis=1) > _APART)]
    if free:
        return free[rng.integers(len(free))]
    while True:
        place = rng.uniform(*env._target_sampling_bounds)
        if np.all(np.linalg.norm(taken - place, axis=1) > _APART):
            return place


def _scatter(env: Any, count: int, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64[count, 3], m: cubes on distinct slots."""
    taken = np.empty((0, 2))
    for _ in range(count):
        taken = np.concatenate([taken, _free(env, taken, places, rng)[None]])
    return np.column_stack([taken, np.full(count, _TABLE)])


def _other_states(goal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random button states that are not the goal's."""
    while True:
        states = rng.integers(0, 2, len(goal))
        if np.any(states != goal):
            return states
