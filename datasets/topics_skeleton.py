"""What a bag holds, as text, and a YAML of topics to start from: joints and image sizes from its first messages."""

from __future__ import annotations

from typing import Any

from robot_value.convert import ConversionError
from robot_value.datasets.bag_files import Bag
from robot_value.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY

AGE = "max_age: 0.1  # s"


def skeleton(bag: Bag) -> str:
    """The message of a conversion that was not told what the topics mean."""
    seconds = max(bag.seconds, 1e-9)
    found = [f"  {topic}  {kind}  {n} messages, {n / seconds:.1f} Hz" for topic, (kind, n) in bag.topics.items()]
    return "\n".join(
        [
            f"{bag.path}: expected --source.topics=FILE, a YAML that says what they mean (docs/topics.md), got none",
            *(found or ["  no topic at all"]),
            "a YAML to start from (null: only you know it):",
            "rate: 20.0  # Hz",
            "max_skew: 0.1  # s",
            *_section("state", bag, {JOINT_STATE: _joint_state}),
            *_section("action", bag, {JOINT_TRAJECTORY: _trajectory}),
            *_section("cameras", bag, {IMAGE: _image, COMPRESSED_IMAGE: _compressed}),
        ]
    )


def _section(key: str, bag: Bag, makers: dict[str, Any]) -> list[str]:
    lines = [f"{key}:"]
    for topic, (kind, count) in bag.topics.items():
        if kind in makers and count:
            fields = [f"topic: {topic}", f"type: {kind}", *makers[kind](topic, _first(bag, topic)), AGE]
            lines += [("  - " if i == 0 else "    ") + line for i, line in enumerate(fields)]
    return lines if len(lines) > 1 else [f"{key}: []"]


def _first(bag: Bag, topic: str) -> Any:
    try:
        return next(bag.messages({topic}))[1].open()
    except ConversionError:
        return None


def _joint_state(topic: str, message: Any) -> list[str]:
    return [f"joints: {_joints(message, 'name')}", "unit: null  # rad or m"]


def _trajectory(topic: str, message: Any) -> list[str]:
    limits = ["low: null  # per joint", "high: null"]
    return ["name: arm", "kind: joint", f"joints: {_joints(message, 'joint_names')}", "unit: null  # rad or m", *limits]


def _image(topic: str, message: Any) -> list[str]:
    height, width, encoding = (getattr(message, name, "null") for name in ("height", "width", "encoding"))
    return [f"name: {_name(topic)}", f"height: {height}", f"width: {width}", f"encoding: {encoding}"]


def _compressed(topic: str, message: Any) -> list[str]:
    encoding = "png" if "png" in str(getattr(message, "format", "")) else "jpeg"
    return [f"name: {_name(topic)}", "height: null", "width: null", f"encoding: {encoding}"]


def _joints(message: Any, key: str) -> str:
    return f"[{', '.join(getattr(message, key, []))}]"


def _name(topic: str) -> str:
    return topic.strip("/").split("/")[0]
