"""LeRobot's environment types `robosuite` and `ogbench`: what it asks of them, answered by our robots' Configs.

Every default of the simulation is the robot's own (`--env.robot.control=...`), as in `robot-value evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import freeze_after_episode_end
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from robot_value.sim import ogbench_robot, robosuite_robot
from robot_value.types import Spec

from .robot_env import RobotEnv


@dataclass
class SimulatedEnv(EnvConfig):
    """Shared by both types, which only say what a robot and its first task are."""

    fps: int = 20  # Hz; must be the robot's control rate

    def __post_init__(self) -> None:
        robots = self.robots
        spec = spec_of(robots[0])
        for robot in robots[1:]:
            spec.check(spec_of(robot), f"task {robot.task} (its actions and observations must be those of the first)")
        if abs(self.fps * spec.dt - 1) > 1e-6:
            raise ValueError(f"env.fps: expected the robot's {1 / spec.dt:g} Hz, got {self.fps}")
        self.features, self.features_map = features(spec)

    @property
    def robots(self) -> list[Any]:
        """A robot's Config per task of `task`; with a camera, because lerobot-eval films every episode."""
        if self.robot.task != type(self.robot)().task:
            raise ValueError(f"env.robot.task: expected nothing, got {self.robot.task!r}; say it as env.task")
        name, camera = self.CAMERA
        robot = replace(self.robot, **{name: getattr(self.robot, name) or camera})
        return [replace(robot, task=task.strip()) for task in str(self.task).split(",")]

    @property
    def gym_kwargs(self) -> dict:
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """{type: {number of the task: n_envs robots}}. An env whose episode is over rests until the next rollout."""
        return {
            self.type: {
                number: vectorized(partial(RobotEnv, robot), n_envs, use_async_envs)
                for number, robot in enumerate(self.robots)
            }
        }


@EnvConfig.register_subclass("robosuite")
@dataclass
class RobosuiteEnv(SimulatedEnv):
    task: str = "Lift"  # Lift, PickPlaceCan, Stack, NutAssemblySquare or Door; several with commas
    robot: robosuite_robot.Config = robosuite_robot.Config()
    CAMERA: ClassVar = ("cameras", ("agentview",))  # a robot that was given none gets this


@EnvConfig.register_subclass("ogbench")
@dataclass
class OgbenchEnv(SimulatedEnv):
    task: str = "cube-single-task1"  # e.g. scene-task2; several of one family with commas
    robot: ogbench_robot.Config = ogbench_robot.Config()
    CAMERA: ClassVar = ("image_size", 64)  # pixels, as OGBench's visual tasks


@cache
def spec_of(robot: Any) -> Spec:
    """What a robot's numbers mean; asks the simulator, once per process and robot."""
    simulator = robot.simulator()
    try:
        return simulator.spec
    finally:
        simulator.close()


def features(spec: Spec) -> tuple[dict[str, PolicyFeature], dict[str, str]]:
    """What the gym environment gives and takes, and the policy's names for it: those of our LeRobot exporter."""
    found = {
        ACTION: PolicyFeature(FeatureType.ACTION, (spec.action_dim,)),
        "agent_pos": PolicyFeature(FeatureType.STATE, (spec.state_dim,)),
    }
    found |= {
        f"{OBS_IMAGES}.{camera.name}": PolicyFeature(FeatureType.VISUAL, (camera.height, camera.width, 3))
        for camera in spec.cameras
    }
    return found, {name: name for name in found} | {"agent_pos": OBS_STATE}


def vectorized(make: Any, n_envs: int, use_async: bool) -> gym.vector.VectorEnv:
    makers = [freeze_after_episode_end(make)] * n_envs
    if use_async and n_envs > 1:
        return AsyncVectorEnv(makers, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
