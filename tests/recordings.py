"""What the nodes of a small arm say, made by hand: three joints, one camera of 4 x 5 pixels, 10 ms control steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import yaml

from robot_value import wire
from robot_value.deploy.album import Album
from robot_value.deploy.recording import Step, Take
from robot_value.resampling import Received
from robot_value.topics import parse

YAML = """
rate: 100.0
max_skew: 0.5
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [a, b, c], unit: rad, max_age: 0.5}
action:
  - {name: arm, topic: /command, type: trajectory_msgs/msg/JointTrajectory, joints: [a, b, c], kind: joint, unit: rad,
     low: -4, high: 4, max_age: 0.5}
cameras:
  - {name: wrist, topic: /wrist, type: sensor_msgs/msg/Image, height: 4, width: 5, encoding: bgr8, max_age: 0.5}
reward: {topic: /reward, type: std_msgs/msg/Float32}
success: {topic: /success, type: std_msgs/msg/Bool}
"""
TOPICS = parse(yaml.safe_load(YAML))
SPEC = TOPICS.spec
SCHEMA = wire.schema(SPEC)
STEP = 10_000_000  # ns
BEGIN = 5_000_000_000  # ns


def state(k: int) -> np.ndarray:
    """float32[3] of tick k; numbers that only float32 has."""
    return np.random.default_rng(k).normal(size=3).astype(np.float32)


def action(k: int) -> np.ndarray:
    return np.random.default_rng(1000 + k).uniform(-1, 1, 3).astype(np.float32)


def pixels(k: int) -> np.ndarray:
    """uint8[4, 5, 3], red first"""
    return np.random.default_rng(2000 + k).integers(0, 256, (4, 5, 3), np.uint8)


def picture(k: int, episode: int = 0, lockstep: bool = False) -> tuple[Received, str]:
    """The message of frame k as it is received, and its frame_id."""
    data = pixels(k)[..., ::-1].tobytes()
    message = SimpleNamespace(encoding="bgr8", height=4, width=5, step=15, data=data)
    stamp = k * STEP if lockstep else 777 + k * STEP
    return Received(BEGIN + k * STEP, stamp, lambda: message), f"{episode}:{k}" if lockstep else "camera"


def step(k: int, episode: int = 0, time: int | None = None, lockstep: bool = False) -> Step:
    key = f"{episode}:{k}" if lockstep else 777 + k * STEP
    return Step(episode, k, BEGIN + k * STEP if time is None else time, state(k), {"wrist": key})


def command(k: int, time: int, source: str = wire.POLICY, numbers=None, episode: int = 0) -> wire.Plan:
    """Of step k, published at `time` (ns)."""
    about = wire.About(k, episode, k, time, time, time, SCHEMA, source)
    numbers = action(k) if numbers is None else numbers
    return wire.Plan(about, np.asarray(numbers, np.float64)[None], None, 0.01)


def take(by_step: bool = False, number: int = 0) -> Take:
    return Take(TOPICS, number, 40 + number, "lift", BEGIN, by_step, counted=by_step)


def recorded(steps: int, lockstep: bool = False, without: tuple[int, ...] = ()) -> Take:
    """A whole take of `steps` steps and the final tick; commands in the middle of steps; frames `without` are lost."""
    made, album = take(lockstep), Album(TOPICS.cameras, 1.0)
    for k in range(steps + 1):
        if k not in without:
            album.put("/wrist", *picture(k, lockstep=lockstep))
        made.put_step(step(k, lockstep=lockstep), album)
        if k < steps:
            made.put_command(command(k, BEGIN + k * STEP + STEP // 2))
    return made
