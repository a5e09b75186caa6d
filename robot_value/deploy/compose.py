"""The inverse of messages.py: arrays into ROS messages, such that `extract` gives the same arrays back, bit by bit."""

from __future__ import annotations

import array
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..messages import CHANNELS, PARTS, MessageError
from ..topics import IMAGE, JOINT_TRAJECTORY, NAMED, Numbers, Pictures


def write_numbers(message: Any, values: Mapping[Numbers, np.ndarray]) -> None:
    """Into a new message of the entries' topic; values float32[dims] in the mapping's units."""
    joints = list(dict.fromkeys(joint for entry in values for joint in entry.joints))
    for entry, numbers in values.items():
        if entry.type == JOINT_TRAJECTORY:
            raise MessageError(f"{entry.topic}: expected a message of measurements, got {entry.type}")
        if entry.joints:
            setattr(message, NAMED[entry.type], joints)
            numbers = _among(message, entry, joints, numbers)
        _set(message, entry.path, np.asarray(numbers, np.float64))


def write_image(message: Any, entry: Pictures, pixels: np.ndarray) -> None:
    """`pixels` uint8[h, w, 3]. Raises MessageError where the message's encoding would change them."""
    if entry.type != IMAGE:
        message.format, message.data = f"rgb8; {entry.encoding}", _bytes(_packed(entry, pixels))
        return
    channels, order = CHANNELS[entry.encoding]
    if entry.encoding == "mono8" and (pixels != pixels[..., :1]).any():
        raise MessageError(f"{entry.topic}: expected grey pixels for mono8, got colours")
    data = np.full((*pixels.shape[:2], channels), 255, np.uint8)
    data[..., order] = pixels
    message.height, message.width, message.encoding = *pixels.shape[:2], entry.encoding
    message.step, message.is_bigendian = pixels.shape[1] * channels, 0
    message.data = _bytes(data.tobytes())


def _among(message: Any, entry: Numbers, joints: list[str], numbers: np.ndarray) -> np.ndarray:
    """float64[joints]: these numbers at their joints, the others as they are in the message, else 0."""
    already = list(getattr(message, entry.path))
    full = np.array(already if len(already) == len(joints) else [0.0] * len(joints), np.float64)
    full[[joints.index(joint) for joint in entry.joints]] = numbers
    return full


def _set(message: Any, path: str, numbers: np.ndarray) -> None:
    *way, name = path.split(".")
    for each in way:
        message = getattr(message, each)
    old = getattr(message, name)
    if _size(old):
        _lay_out(old, iter(numbers.tolist()))
    else:
        setattr(message, name, float(numbers[0]) if isinstance(old, int | float | np.number) else numbers.tolist())


def _parts(holder: Any) -> tuple[str, ...]:
    return next((names for names in PARTS if all(hasattr(holder, name) for name in names)), ())


def _size(holder: Any) -> int:
    """Numbers that a message with named parts holds; 0 where it has none."""
    return sum(_size(getattr(holder, name)) or 1 for name in _parts(holder))


def _lay_out(holder: Any, numbers: Any) -> None:
    for name in _parts(holder):
        if _parts(getattr(holder, name)):
            _lay_out(getattr(holder, name), numbers)
        else:
            setattr(holder, name, next(numbers))


def _packed(entry: Pictures, pixels: np.ndarray) -> bytes:
    from PIL import Image

    if entry.encoding != "png":
        raise MessageError(
            f"{entry.topic}: expected an encoding that keeps every pixel, got {entry.encoding}; "
            "map this camera to png or to sensor_msgs/msg/Image in the YAML of topics"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _bytes(data: bytes) -> array.array:
    """What rclpy takes without looking at every number."""
    return array.array("B", data)
