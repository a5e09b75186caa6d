"""Seven joints that follow their targets with a first-order lag, and a gripper: an arm to test loops, nodes and faults.

Pure numpy. Task: reach a fixed pose from anywhere near home. Cameras show how many steps the episode has had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_value.types import ActionPart, Camera, Spec

from .fleet import Fleet
from .simulator import Frame

JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
# Franka Emika Panda, joint limits as published: rad, rad/s
LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
FASTEST = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61, 4.0])  # the gripper: 1/s
HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])  # rad
GOAL = HOME + np.array([0.5, 0.3, -0.4, 0.5, 0.3, 0.4, -0.5])  # rad
NEAR = 0.02  # rad per joint that counts as reached
SPREAD = 0.2  # rad around home where episodes begin
PACE = 0.6  # rad/s of the expert


@dataclass(frozen=True)
class Config:
    control_freq: int = 20  # control steps per second
    max_steps: int = 80  # control steps until an episode is truncated
    lag: float = 0.03  # s, time constant with which a joint follows its target
    cameras: tuple[str, ...] = ()  # names; what they show is the same
    camera_size: int = 32  # pixels, height and width

    text = "reach the pose"

    def __post_init__(self) -> None:
        if self.control_freq < 1 or self.max_steps < 1 or not self.lag > 0 or self.camera_size < 4:
            raise ValueError(
                "expected control_freq and max_steps of at least 1, lag above 0 and camera_size of at least 4, got "
                f"{self.control_freq}, {self.max_steps}, {self.lag} and {self.camera_size}"
            )

    @property
    def steps(self) -> int:
        """Control steps until an episode is truncated."""
        return self.max_steps

    def simulator(self) -> FirstOrderArm:
        return FirstOrderArm(self)

    def build(self, batch_size: int, workers: int = 0, n_obs_steps: int = 1, driver: str = "policy") -> Fleet:
        return Fleet(self, batch_size, workers, n_obs_steps, driver)


class FirstOrderArm:
    """A Simulator. dq/dt = (target - q) / lag, within the joints' velocities and positions."""

    def __init__(self, config: Config) -> None:
        self.tasks, self.max_steps, self._config = (config.text,), config.max_steps, config
        arm = ActionPart("arm", 0, 7, "joint", "rad", LOW, HIGH)
        size, dt = config.camera_size, 1 / config.control_freq
        self.spec = Spec(
            parts=(arm, ActionPart("gripper", 7, 8, "gripper", "1", (-1,), (1,), width=0.08)),
            state_names=(*JOINTS, "gripper"),
            state_units=("rad",) * 7 + ("1",),
            dt=dt,
            cameras=tuple(Camera(name, size, size) for name in config.cameras),
        )
        self._share, self._most = 1 - np.exp(-dt / config.lag), FASTEST * dt
        self._expert = FirstOrderExpert(self)

    def reset(self, task: str, seed: int) -> Frame:
        start = HOME + np.random.default_rng(seed).uniform(-SPREAD, SPREAD, 7)
        self.position, self._step = np.append(start, -1.0), 0  # float64[8], rad and 1
        return self._look()

    def step(self, action: np.ndarray, pictures: bool = True) -> Frame:
        target = np.clip(np.asarray(action, np.float64), self.spec.low, self.spec.high)
        self.position = self.position + np.clip(self._share * (target - self.position), -self._most, self._most)
        self._step += 1
        reached = bool((np.abs(self.position[:7] - GOAL) <= NEAR).all())
        return self._look(float(reached), reached, pictures)

    def expert(self, seed: int) -> FirstOrderExpert:
        return self._expert

    def save_state(self) -> Mapping[str, Any]:
        return {"position": self.position, "step": self._step}

    def load_state(self, state: Mapping[str, Any]) -> Frame:
        self.position, self._step = state["position"], state["step"]
        return self._look()

    def close(self) -> None:
        """Nothing is held."""

    def look(self) -> Frame:
        """The present state, seen anew."""
        return self._look()

    def _look(self, reward: float = 0.0, reached: bool = False, pictures: bool = True) -> Frame:
        cameras = self._config.cameras if pictures else ()
        images = {name: counted(self._step, self._config.camera_size) for name in cameras}
        time = self._step / self._config.control_freq
        return Frame(self.position.astype(np.float32), images, reward, reached, reached, False, time)


class FirstOrderExpert:
    """Straight to the goal at a steady pace; it has no memory."""

    def __init__(self, arm: FirstOrderArm) -> None:
        self._arm, self.latents = arm, {}

    def action(self) -> np.ndarray:
        """float32[8]"""
        arm = self._arm
        ahead = PACE * (arm.spec.dt + arm._config.lag)  # what the lag will hold back, too
        way = np.clip(GOAL - arm.position[:7], -ahead, ahead)
        return np.append(arm.position[:7] + way, -1.0).astype(np.float32)


def counted(count: int, size: int) -> np.ndarray:
    """uint8[size, size, 3]: the count in the first eight bytes, then a pattern that moves with it."""
    image = (np.arange(size * size * 3) + 7 * count).astype(np.uint8)
    image[:8] = np.frombuffer(np.uint64(count).tobytes(), np.uint8)
    return image.reshape(size, size, 3)


def count_of(image: np.ndarray) -> int:
    """The inverse of `counted`."""
    return int(np.ascontiguousarray(image).reshape(-1)[:8].view(np.uint64)[0])
