"""One robosuite task as a Simulator: reproducible resets, exact restores, plain robosuite's physics but faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from robot_value.components import unknown
from robot_value.types import ActionPart, Camera, Spec

from . import robosuite_snapshot as snapshot
from .expert_joint import JointExpert
from .fast_osc import ControlStep
from .robosuite_env import VERSIONS, make_env, seeded_globals
from .robosuite_experts import build_expert
from .robosuite_render import Renderer
from .robosuite_state import StateReader
from .simulator import Expert, Frame

if TYPE_CHECKING:
    from .robosuite_robot import Config

_PICTURE_ONLY = int(mujoco.mjtWarning.mjWARN_VGEOMFULL)


class RobosuiteSimulator:
    """The reward is sparse: 1 in the step that reaches the task's own success, which ends the episode; 0 elsewhere."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.env = make_env(config.task, config.control, config.control_freq)
        self._model, self._data = self.env.sim.model._model, self.env.sim.data._data
        self._pristine = {name: getattr(self._model, name).copy() for name in ("body_pos", "body_quat")}
        self._read = StateReader(self.env, config.control, config.state)
        self._drive = ControlStep(self.env)
        self._render = self._renderer() if config.cameras else None
        self._expert: Any = None
        self._frame: Frame | None = None
        self.tasks = (config.text,)
        self.max_steps = config.steps
        self.spec = self._spec()
        self.provenance = dict(VERSIONS)

    def reset(self, task: str, seed: int) -> Frame:
        if task not in self.tasks:
            raise ValueError(unknown("task", task, list(self.tasks)))
        for name, value in self._pristine.items():
            getattr(self._model, name)[:] = value
        with seeded_globals(seed):
            self.env.reset()
        self._drive.bind()
        mujoco.mj_step1(self._model, self._data)
        return self._look()

    def step(self, action: np.ndarray, pictures: bool = True) -> Frame:
        before = self._data.time
        self._drive(np.asarray(action, np.float64))
        success = bool(self.env._check_success())
        unstable = self._warned() or self._data.time <= before
        return self._look(float(success), success, unstable, pictures)

    def save_state(self) -> Mapping[str, Any]:
        expert = self._expert.save() if self._expert else None
        return {"env": snapshot.save(self.env), "expert": expert, "frame": self._frame}

    def load_state(self, state: Mapping[str, Any]) -> Frame:
        snapshot.load(self.env, state["env"])
        if state["expert"] is not None:
            if self._expert is None:
                self.expert(0)
            self._expert.load(state["expert"])
        self._frame = state["frame"]  # saved rather than read again: pictures are dear, and frames are never written to
        return self._frame

    def expert(self, seed: int) -> Expert:
        expert = build_expert(self._config.task, self.env, self._config.quality, seed)
        joint = self._config.control == "joint_absolute"
        self._expert = JointExpert(self.env, expert, *self._model.jnt_range[:7].T) if joint else expert
        return self._expert

    def look(self) -> Frame:
        """The present state, seen anew: a restored frame has the pictures it was saved with."""
        return self._look()

    def close(self) -> None:
        if self._render:
            self._render.close()
        self.env.close()

    def _look(self, reward: float = 0.0, success: bool = False, unstable: bool = False, pictures: bool = True) -> Frame:
        images = {name: self._render(name) for name in self._config.cameras} if self._render and pictures else {}
        self._frame = Frame(self._read(), images, reward, success, success, unstable, float(self._data.time))
        return self._frame

    def _warned(self) -> bool:
        """Warnings are counted from the reset or restore on, which clear them."""
        counts = self._data.warning.number
        return bool(counts.sum() > counts[_PICTURE_ONLY])

    def _renderer(self) -> Renderer:
        config, known = self._config, [self._model.camera(i).name for i in range(self._model.ncam)]
        for camera in config.cameras:
            if camera not in known:
                raise ValueError(unknown("camera", camera, known))
        size = config.camera_size
        return Renderer(self._model, self._data, (size, size), config.render_samples, config.render_shadows)

    def _spec(self) -> Spec:
        size = self._config.camera_size
        return Spec(
            parts=self._parts(),
            state_names=self._read.names,
            state_units=self._read.units,
            dt=1 / self._config.control_freq,
            cameras=tuple(Camera(name, size, size) for name in self._config.cameras),
        )

    def _parts(self) -> tuple[ActionPart, ...]:
        if self._config.control == "osc_delta":
            # 1 moves the goal 5 cm or 0.5 rad away from where the gripper is when the step begins
            arm = ActionPart(
                "arm", 0, 6, "pose", "0.05 m+0.5 rad", (-1,) * 6, (1,) * 6, reference="current", rotation="axis_angle"
            )
        else:
            low, high = self._model.jnt_range[:7].T
            arm = ActionPart("arm", 0, 7, "joint", "rad", tuple(low), tuple(high))
        # the sign alone counts: +1 closes, -1 opens, at a fixed speed
        return arm, ActionPart("gripper", arm.stop, arm.stop + 1, "gripper", "1", (-1,), (1,), sign=1, width=0.08)
