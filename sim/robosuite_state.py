"""The low-dimensional state of a robosuite task: its own observables' sensors, read at the end of a control step.

Observables sample inside the control step and keep timers; their sensors read MuJoCo and keep nothing: we call those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_PROPRIOCEPTION = {
    # robot0_eef_quat is the hand body's: continuous in time, where the site's flips sign with the gripper pointing down
    "osc_delta": ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    "joint_absolute": ("robot0_joint_pos", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
}
_AXES = {3: ("x", "y", "z"), 4: ("x", "y", "z", "w")}
_UNITS = {"robot0_joint_pos": "rad", "hinge_qpos": "rad", "handle_qpos": "rad"}


class StateReader:
    """Reads float32[S]; `names` and `units` say what the S numbers are."""

    def __init__(self, env: Any, control: str, privileged: bool) -> None:
        enabled = {name: o for name, o in env._observables.items() if o.is_enabled()}
        wanted = list(_PROPRIOCEPTION[control])
        if privileged:
            wanted += [name for name, o in enabled.items() if o.modality == "object" and o.is_active()]
        needed = [name for name, o in enabled.items() if name in wanted or _feeds_others(name, o)]
        # relative poses are computed from absolute ones in the cache; robosuite lets some of them lag a sample
        self._sensors = [(name, enabled[name]._sensor) for name in sorted(needed, key=lambda name: "_to_" in name)]
        self._order = wanted
        first = self._values()
        self.names = tuple(f"{name}{suffix}" for name in wanted for suffix in _suffixes(name, first[name].size))
        self.units = tuple(_unit(name) for name in wanted for _ in range(first[name].size))

    def __call__(self) -> np.ndarray:
        """float32[S]"""
        values = self._values()
        return np.concatenate([values[name] for name in self._order]).astype(np.float32)

    def _values(self) -> dict[str, np.ndarray]:
        cache: dict[str, np.ndarray] = {}
        for name, sensor in self._sensors:
            cache[name] = np.asarray(sensor(cache))
        return {name: cache[name].reshape(-1) for name in self._order}


def _feeds_others(name: str, observable: Any) -> bool:
    return name.startswith("robot0_eef") or not observable.is_active()


def _suffixes(name: str, size: int) -> tuple[str, ...]:
    if size == 1:
        return ("",)
    axes = _AXES.get(size) if "joint" not in name else None
    return tuple(f"_{axis}" for axis in axes or range(size))


def _unit(name: str) -> str:
    if name in _UNITS:
        return _UNITS[name]
    return "1" if "quat" in name else "m"
