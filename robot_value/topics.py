"""Which ROS topic feeds which field: one YAML for live nodes and for bags, read into frozen dataclasses and checked.

docs/topics.md explains every key; launch/params/topics.yaml is the example. Needs no ROS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .safety import speeds_of
from .types import ActionPart, Camera, Spec
from .yaml_keys import KeyMistake, Keys, each, number, pattern, positive, read_yaml, text, texts

TOPIC = re.compile(r"/[A-Za-z0-9_/]+")
TYPE = re.compile(r"[A-Za-z0-9_]+/msg/[A-Za-z0-9_]+")
PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")

JOINT_STATE, JOINT_TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NAMED = {JOINT_STATE: "name", JOINT_TRAJECTORY: "joint_names"}  # type -> field with the joints' names
ENCODINGS = {IMAGE: ("rgb8", "bgr8", "rgba8", "bgra8", "mono8"), COMPRESSED_IMAGE: ("jpeg", "png")}
# Where the numbers are, for types that leave no doubt.
PATHS = {JOINT_STATE: "position", JOINT_TRAJECTORY: "positions"}
PATHS |= {f"std_msgs/msg/{name}": "data" for name in ("Float32", "Float64", "Float32MultiArray", "Float64MultiArray")}
TWIST = "geometry_msgs/msg/TwistStamped"
PATHS |= {"geometry_msgs/msg/PoseStamped": "pose", TWIST: "twist"}
NUMBER, FLAG, TEXT = ("std_msgs/msg/Float32", "std_msgs/msg/Float64"), ("std_msgs/msg/Bool",), ("std_msgs/msg/String",)
MARK = (*FLAG, "std_msgs/msg/Empty")
EVENTS = {"reward": NUMBER, "success": FLAG, "task": TEXT, "intervention": FLAG, "start": MARK, "stop": MARK}


_topic, _type = pattern(TOPIC, "/joint_states"), pattern(TYPE, "sensor_msgs/msg/JointState")
_path = pattern(PATH, "wrench.force")


class TopicsError(ValueError):
    """The file does not say what the topics mean; the message names file and key."""


@dataclass(frozen=True)
class Numbers:
    """Numbers of one topic, in a fixed order whatever the order in the message."""

    topic: str
    type: str  # e.g. "sensor_msgs/msg/JointState"
    path: str  # field of the message that holds them, e.g. "position" or "wrench.force"
    joints: tuple[str, ...]  # as the message names them; empty where it names nothing
    names: tuple[str, ...]  # one per dim
    units: tuple[str, ...]  # one per dim
    max_age: float  # s since it was received; older at a tick is stale
    counted: bool = False  # increments: expected exactly one per step, never repeated and never skipped
    speeds: tuple[float, ...] = ()  # m/s or rad/s in a twist's message per 1 of ours; empty: numbers are as they are


@dataclass(frozen=True)
class Pictures:
    """Images of one topic."""

    topic: str
    type: str
    camera: Camera
    encoding: str  # of the messages: rgb8, bgr8, rgba8, bgra8, mono8; jpeg, png where compressed
    max_age: float  # s since it was received; older at a tick is stale


@dataclass(frozen=True)
class Event:
    """A topic that says something now and then: what was said last holds."""

    topic: str
    type: str


@dataclass(frozen=True)
class Topics:
    rate: float  # Hz, control ticks
    max_skew: float  # s between the oldest and the newest stamp of one observation
    state: tuple[Numbers, ...]
    action: tuple[Numbers, ...]
    parts: tuple[ActionPart, ...]  # one per entry of `action`
    cameras: tuple[Pictures, ...]
    events: Mapping[str, Event] = field(default_factory=dict)  # keys of EVENTS that are given

    @property
    def spec(self) -> Spec:
        return Spec(
            parts=self.parts,
            state_names=tuple(name for entry in self.state for name in entry.names),
            state_units=tuple(unit for entry in self.state for unit in entry.units),
            dt=1 / self.rate,
            cameras=tuple(entry.camera for entry in self.cameras),
            language="task" in self.events,
        )

    @property
    def observed(self) -> tuple[Numbers | Pictures, ...]:
        return (*self.state, *self.cameras)

    @property
    def inputs(self) -> dict[str, str]:
        """topic -> type of everything that is resampled."""
        return {entry.topic: entry.type for entry in (*self.observed, *self.action)}

    @property
    def types(self) -> dict[str, str]:
        """topic -> type of everything."""
        return self.inputs | {event.topic: event.type for event in self.events.values()}


def load(path: str | Path) -> Topics:
    """Raises TopicsError naming file and key."""
    try:
        return parse(read_yaml(path))
    except (OSError, KeyMistake) as error:
        raise TopicsError(f"{path}: {error}; docs/topics.md explains every key") from error


def parse(data: Any) -> Topics:
    """The mapping from plain YAML values. Raises KeyMistake."""
    keys = Keys("", data)
    rate = keys.take("rate", positive)
    state = tuple(_numbers(entry) for entry in keys.entries("state"))
    action, parts = [], []
    for entry in keys.entries("action"):
        numbers, part = _action(entry, start=parts[-1].stop if parts else 0, rate=rate)
        action.append(numbers)
        parts.append(part)
    cameras = tuple(_pictures(entry) for entry in keys.entries("cameras"))
    skew = keys.take("max_skew", _age)
    events = {key: _event(keys.below(key), types) for key, types in EVENTS.items() if key in keys.left}
    keys.done()
    topics = Topics(rate, skew, state, tuple(action), tuple(parts), cameras, events)
    _consistent(topics)
    return topics


def _consistent(topics: Topics) -> None:
    if not topics.action or not topics.observed:
        raise KeyMistake("action and state (or cameras): expected at least one entry each, got none")
    entries = (*topics.observed, *topics.action, *topics.events.values())
    for entry in entries:
        if entry.type != topics.types[entry.topic]:
            raise KeyMistake(f"{entry.topic}: expected one type, got {entry.type} and {topics.types[entry.topic]}")
    for what, names in (
        ("action: name", [part.name for part in topics.parts]),
        ("cameras: name", [entry.camera.name for entry in topics.cameras]),
        ("state: names", [name for entry in topics.state for name in entry.names]),
    ):
        if twice := {name for name in names if names.count(name) > 1}:
            raise KeyMistake(f"{what}: expected different names, got {sorted(twice)} twice")
    if "stop" in topics.events and "start" not in topics.events:
        raise KeyMistake("stop: expected a start topic too, got none")
    same = "stop" in topics.events and topics.events["stop"] == topics.events["start"]
    if same and topics.events["stop"].type not in FLAG:
        raise KeyMistake("stop: one topic for start and stop must be std_msgs/msg/Bool (true starts, false stops)")


def _numbers(keys: Keys) -> Numbers:
    numbers = _read_numbers(keys)
    keys.done()
    return numbers


def _read_numbers(keys: Keys, relative: bool = False) -> Numbers:
    topic, kind = keys.take("topic", _topic), keys.take("type", _type)
    path = keys.take("path", _path, PATHS.get(kind))
    joints = keys.take("joints", texts) if kind in NAMED else ()
    suffix = "" if path in ("position", "positions") else f".{path}"
    names = keys.take("names", texts, tuple(joint + suffix for joint in joints) or None)
    if joints and len(names) != len(joints):
        raise KeyMistake(f"{keys.where}names: expected one per joint ({len(joints)}), got {len(names)}")
    units = keys.take("unit", lambda value: each(value, len(names), text))
    return Numbers(topic, kind, path, joints, names, units, keys.take("max_age", _age), relative and kind != TWIST)


def _action(keys: Keys, start: int, rate: float) -> tuple[Numbers, ActionPart]:
    name, unit = keys.take("name", text), keys.left.get("unit")
    reference = keys.take("reference", text, "absolute")
    numbers = _read_numbers(keys, relative=reference != "absolute")
    size = len(numbers.names)
    limits = {key: keys.take(key, lambda value: each(value, size, number)) for key in ("low", "high")}
    about = {key: keys.take(key, text) for key in ("kind", "rotation", "frame") if key in keys.left or key == "kind"}
    about |= {key: keys.take(key, read) for key, read in (("sign", _sign), ("width", positive)) if key in keys.left}
    keys.done()
    if numbers.counted and not numbers.max_age < 1 / rate:
        raise KeyMistake(
            f"{keys.where}max_age: expected less than a step ({1 / rate:g} s) for increments (reference "
            f"{reference!r}), got {numbers.max_age}; an older one would be applied twice"
        )
    try:
        unit = unit if isinstance(unit, str) else "+".join(dict.fromkeys(numbers.units))
        part = ActionPart(name, start, start + size, unit=unit, reference=reference, **limits, **about)
        if numbers.type == TWIST:
            numbers = replace(numbers, speeds=tuple(speeds_of(part, 1 / rate).tolist()))
        return numbers, part
    except ValueError as error:
        raise KeyMistake(f"{keys.where.rstrip('.')}: {error}") from error


def _pictures(keys: Keys) -> Pictures:
    topic, kind = keys.take("topic", _topic), keys.take("type", _type)
    if kind not in ENCODINGS:
        raise KeyMistake(f"{keys.where}type: expected one of {', '.join(ENCODINGS)}, got {kind}")
    camera = Camera(keys.take("name", text), keys.take("height", _pixels), keys.take("width", _pixels))
    encoding, age = keys.take("encoding", text), keys.take("max_age", _age)
    keys.done()
    if encoding not in ENCODINGS[kind]:
        raise KeyMistake(f"{keys.where}encoding: expected one of {', '.join(ENCODINGS[kind])}, got {encoding!r}")
    return Pictures(topic, kind, camera, encoding, age)


def _event(keys: Keys, types: tuple[str, ...]) -> Event:
    event = Event(keys.take("topic", _topic), keys.take("type", _type))
    keys.done()
    if event.type not in types:
        raise KeyMistake(f"{keys.where}type: expected {' or '.join(types)}, got {event.type}")
    return event


def _age(value: Any) -> float:
    """Infinite where the last message holds for ever, e.g. a gripper command sent only when it changes."""
    return math.inf if value == math.inf else positive(value)


def _pixels(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 14:
        raise ValueError(f"expected 1 to {1 << 14} pixels")
    return value


def _sign(value: Any) -> int:
    if value not in (1, -1):
        raise ValueError("expected 1 or -1")
    return int(value)
