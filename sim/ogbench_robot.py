"""OGBench's single-task manipulation (Park et al., ICLR 2025) as a Robot: UR5e, cubes, buttons, drawer, window.

Reward and termination look at the state a step leads to, and an episode ends when its task is solved.
"""

from __future__ import annotations

import atexit
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from robot_value.types import Camera, Spec

from . import ogbench_env as og
from .fleet import Fleet
from .ogbench_expert import PlayExpert, play_start, slots
from .simulator import Frame

MODES = ("task", "play")
REWARDS = ("objects", "step", "success")


@dataclass(frozen=True)
class Config:
    """An OGBench task, how its episodes start and end, and how its scripted play moves."""

    # Family and number: cube-{single,double,triple,quadruple,octuple}, scene, puzzle-{3x3,4x4,4x5,4x6}, then -task1..5.
    task: str = "cube-single-task1"
    # "task" starts where OGBench's task starts; "play" starts anywhere the task is not solved (cubes on slots).
    mode: str = "task"
    # "objects": minus the number of objects not at their goal (OGBench's singletask), "step": -1 until solved, then 0
    # ("sparse" in Q-chunking, arXiv 2507.07969), "success": 1 when solved, else 0.
    reward: str = "objects"
    # Episodes go on after their task is solved, until max_steps: data for all tasks of the family at once.
    endless: bool = False
    # Control steps until an episode is truncated; 0 takes OGBench's own limit of the family (cube-single: 200).
    max_steps: int = 0
    # s per control step, a multiple of OGBench's 2 ms physics step; OGBench uses 0.05.
    dt: float = 0.05
    # Pixels per side of OGBench's front camera; 0 renders nothing. OGBench's visual tasks use 64.
    image_size: int = 0
    # Expert: noise on its plan, in units of (5 cm, 5 cm, 5 cm, 0.3 rad, 1); OGBench's play data use 0.1.
    noise: float = 0.1
    # Expert: correlation of that noise, sigma in control steps; OGBench uses 0.5.
    smoothing: float = 0.5
    # Expert: s between keyframes of a plan; 0.3 is quicker than OGBench's 0.4 and gives more moves per episode.
    segment_dt: float = 0.3
    # Expert: how many start and goal slots of the family's tasks it plays among, this task's own first; 0 moves cubes
    # anywhere, as OGBench's own play does.
    slots: int = 5
    # Expert: m, uniform offset of a target from its slot, per axis.
    jitter: float = 0.01
    # Expert: chance of stacking a cube where another is free on top, drawn per episode from this range; OGBench's play
    # draws from (0, 0.25) for cube-double and (0.05, 0.35) for cube-triple, and takes 0.5 for scene.
    stack: tuple[float, float] = (0.5, 0.5)
    # Expert: chance that a cube's move aims at the task's goal: 0 undirected play, 1 demonstrations (cube families).
    goal_bias: float = 0.0

    def __post_init__(self) -> None:
        family, _ = og.parse(self.task)
        for name, value, known in (("mode", self.mode, MODES), ("reward", self.reward, REWARDS)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if self.goal_bias and not family.startswith("cube"):
            raise ValueError(
                f"goal_bias: expected 0 for {family} (its goals need an order of moves), got {self.goal_bias}"
            )
        ratio = self.dt / og.TIMESTEP
        if ratio < 1 or abs(ratio - round(ratio)) > 1e-6:
            raise ValueError(f"dt: expected a multiple of OGBench's physics step {og.TIMESTEP} s, got {self.dt}")

    def simulator(self) -> OgbenchSimulator:
        return OgbenchSimulator(self)

    def build(self, batch_size: int = 1, workers: int = 0, n_obs_steps: int = 1, driver: str = "policy") -> Fleet:
        return Fleet(self, batch_size, workers, n_obs_steps, driver)


class OgbenchSimulator:
    """One compiled OGBench scene; its five tasks share it. Task texts are OGBench's names."""

    def __init__(self, config: Config) -> None:
        self.config = config
        family, _ = og.parse(config.task)
        self._env = og.make_env(family, config.dt, config.image_size)
        self._expert = PlayExpert(self._env, config)
        self._playing = self._rendered = False
        self._frame: Frame | None = None
        self.provenance = {name: version(name) for name in ("mujoco", "ogbench")}
        names, units = zip(*og.fields(self._env), strict=True)
        cameras = (Camera(og.CAMERA, config.image_size, config.image_size),) if config.image_size else ()
        self.spec = Spec(og.PARTS, names, units, config.dt, cameras)
        texts = [f"{family}-task{i}" for i in range(1, og.TASKS_PER_FAMILY + 1)]
        self.tasks = (config.task, *(text for text in texts if text != config.task))
        self.max_steps = config.max_steps or og.FAMILIES[family][3]

    def reset(self, task: str, seed: int) -> Frame:
        if task not in self.tasks:
            raise og.UnknownComponent(og.unknown("task of this simulator", task, list(self.tasks)))
        self._task = og.parse(task)[1]
        info = self._env.task_infos[self._task]
        if self.config.mode == "play":
            info = play_start(self._env, info, self._slots(), np.random.default_rng([seed, 0]))
        og.start(self._env, info, seed)
        self._playing = False
        self._frame = self._look(unstable=False)
        return self._frame

    def step(self, action: np.ndarray, pictures: bool = True) -> Frame:
        """`action` float32[5] in spec units; what exceeds the limits is clipped to them."""
        unstable = og.step(self._env, np.clip(action / og.SCALE, -1.0, 1.0))
        self._frame = self._look(unstable, pictures)
        return self._frame

    def save_state(self) -> dict[str, Any]:
        expert = self._expert.save() if self._playing else None
        return {"env": og.save(self._env), "task": self._task, "expert": expert, "frame": copy.deepcopy(self._frame)}

    def load_state(self, state: Mapping[str, Any]) -> Frame:
        og.load(self._env, state["env"])
        self._task = state["task"]
        self._playing = state["expert"] is not None
        if self._playing:
            self._expert.load(state["expert"])
        self._frame = copy.deepcopy(state["frame"])
        return self._frame

    def expert(self, seed: int) -> PlayExpert:
        """The play expert, begun anew. One object serves all episodes, so it follows `load_state`."""
        self._expert.begin(seed, self._slots())
        self._playing = True
        return self._expert

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._env._renderer is not None:
            self._env._renderer.close()
            self._env._renderer = None

    def _slots(self) -> np.ndarray:
        return slots(self._env.task_infos, self._task, self.config.slots)

    def _look(self, unstable: bool, pictures: bool = True) -> Frame:
        done = og.successes(self._env)
        solved = bool(done.all())
        images = {og.CAMERA: self._picture()} if self.config.image_size and pictures else {}
        reward = {"objects": float(done.sum() - len(done)), "step": float(solved) - 1.0, "success": float(solved)}
        return Frame(
            state=og.read(self._env),
            images=images,
            reward=reward[self.config.reward],
            terminated=solved and not self.config.endless,
            success=solved,
            unstable=unstable,
            time=float(self._env._data.time),
        )

    def _picture(self) -> np.ndarray:
        """uint8[h, w, 3]"""
        image = self._env.render(camera=og.CAMERA)
        if not self._rendered:
            self._rendered = True
            atexit.register(self.close)  # before the exit handler of the GL module, which is there by now
        return image
