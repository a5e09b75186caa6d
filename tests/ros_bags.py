"""Small bags for tests, written by rosbags: what is sent, when it is received, and by which storage."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
JOINTS = ("a", "b", "c")
BEGIN = 1_700_000_000_000_000_000  # ns, a time of day as recorders write it

TOPICS = """
rate: 20.0
max_skew: 0.05
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [a, b, c], unit: rad, max_age: 0.06}
action:
  - name: arm
    topic: /command
    type: trajectory_msgs/msg/JointTrajectory
    joints: [a, b, c]
    kind: joint
    unit: rad
    low: -4
    high: 4
    max_age: 0.12
cameras:
  - {name: wrist, topic: /wrist, type: sensor_msgs/msg/Image, height: 4, width: 5, encoding: bgr8, max_age: 0.1}
"""
EVENTS = """
reward: {topic: /reward, type: std_msgs/msg/Float32}
success: {topic: /success, type: std_msgs/msg/Bool}
task: {topic: /task, type: std_msgs/msg/String}
intervention: {topic: /intervention, type: std_msgs/msg/Bool}
start: {topic: /recording, type: std_msgs/msg/Bool}
stop: {topic: /recording, type: std_msgs/msg/Bool}
"""


@dataclass(frozen=True)
class Sent:
    time: int  # ns, received
    topic: str
    message: object  # of rosbags


def make(kind: str, **values) -> object:
    return TYPES.types[kind](**values)


def header(time: int) -> object:
    stamp = make("builtin_interfaces/msg/Time", sec=time // 10**9, nanosec=time % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="base")


def joint_state(time: int, values, names=JOINTS) -> object:
    none = np.zeros(0)
    values = np.asarray(values, np.float64)
    return make(
        "sensor_msgs/msg/JointState", header=header(time), name=list(names), position=values, velocity=none, effort=none
    )


def trajectory(points, dues=(0.0,), names=JOINTS) -> object:
    """points [(values), ...] due so many seconds after it is received."""
    none = np.zeros(0)
    made = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.asarray(values, np.float64),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=make("builtin_interfaces/msg/Duration", sec=int(due), nanosec=round(due % 1 * 1e9)),
        )
        for values, due in zip(points, dues, strict=True)
    ]
    return make("trajectory_msgs/msg/JointTrajectory", header=header(0), joint_names=list(names), points=made)


def image(time: int, pixels: np.ndarray, encoding: str, padding: int = 3) -> object:
    """pixels uint8[h, w, channels] as they lie in the message; rows end with `padding` bytes that are no pixels."""
    height, width, channels = pixels.shape
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)), constant_values=77)
    about = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0}
    about |= {"step": width * channels + padding, "data": rows.ravel()}
    return make("sensor_msgs/msg/Image", header=header(time), **about)


def compressed(pixels: np.ndarray, encoding: str) -> object:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    return make("sensor_msgs/msg/CompressedImage", header=header(0), format=f"rgb8; {encoding}", data=data)


def std(name: str, value) -> object:
    return make(f"std_msgs/msg/{name}", data=value)


def recording(seconds: float = 2.0, seed: int = 0, drop: dict[str, tuple[float, float]] | None = None) -> list[Sent]:
    """State at 100 Hz, its joints in any order, images at 30 Hz, commands at 20 Hz; without a topic while it drops."""
    rng = np.random.default_rng(seed)
    sent = []
    for topic, rate in (("/joint_states", 100), ("/wrist", 30), ("/command", 20)):
        for i in range(int(seconds * rate)):
            at = i / rate + rng.uniform(0, 0.3) / rate
            low, high = (drop or {}).get(topic, (0.0, 0.0))
            if not low <= at < high:
                time = BEGIN + int(at * 1e9)
                sent.append(Sent(time, topic, _message(rng, topic, time)))
    return sorted(sent, key=lambda each: each.time)


def _message(rng: np.random.Generator, topic: str, time: int) -> object:
    if topic == "/wrist":
        return image(time, rng.integers(0, 256, (4, 5, 3), np.uint8), "bgr8")
    order = rng.permutation(3)
    values, names = rng.uniform(-3, 3, 3), [JOINTS[i] for i in order]
    return joint_state(time, values, names) if topic == "/joint_states" else trajectory([values], names=names)


def write_bag(path: Path, sent: list[Sent], plugin: str = "mcap", types=TYPES) -> Path:
    with Writer(path, version=9, storage_plugin=StoragePlugin[plugin.upper()]) as writer:
        connections: dict = {}
        for each in sent:
            kind = each.message.__msgtype__
            if each.topic not in connections:
                connections[each.topic] = writer.add_connection(each.topic, kind, typestore=types)
            writer.write(connections[each.topic], each.time, types.serialize_cdr(each.message, kind))
    return path
