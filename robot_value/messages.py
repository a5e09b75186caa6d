"""ROS messages into arrays: any object with the message's attributes (rclpy's, rosbags', a test's), no ROS needed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .topics import IMAGE, JOINT_TRAJECTORY, NAMED, Event, Numbers, Pictures

# encoding -> (bytes per pixel, which of them are red, green, blue)
CHANNELS = {"rgb8": (3, [0, 1, 2]), "bgr8": (3, [2, 1, 0]), "rgba8": (4, [0, 1, 2]), "bgra8": (4, [2, 1, 0])}
CHANNELS |= {"mono8": (1, [0, 0, 0])}
# Messages whose fields are numbers by name, in the order in which they are laid out.
PARTS = (("position", "orientation"), ("translation", "rotation"), ("linear", "angular"))
PARTS += (("x", "y", "z", "w"), ("x", "y", "z"))


class MessageError(ValueError):
    """The message is not what the mapping says; it must not be used."""


class NotFinite(MessageError):
    """The message is meant for us, and its numbers are none."""


def extract(entry: Numbers | Pictures, message: Any, elapsed: float = 0.0) -> np.ndarray:
    """float32[dims] in the mapping's units, or uint8[h, w, 3]; `elapsed` s after the message was received."""
    with _named(entry):
        return _image(entry, message) if isinstance(entry, Pictures) else _numbers(entry, message, elapsed)


def check(entry: Numbers | Pictures, message: Any) -> None:
    """Raise MessageError where it cannot be used; of a compressed picture only what can be said before decoding it."""
    with _named(entry):
        if not isinstance(entry, Pictures):
            _numbers(entry, message, 0.0)
        elif entry.type == IMAGE:
            _check_raw(entry, message)
        else:
            _opened(entry, message).close()


@contextmanager
def _named(entry: Numbers | Pictures) -> Iterator[None]:
    """Errors say which topic it was."""
    try:
        yield
    except MessageError as error:
        raise type(error)(f"{entry.topic}: {error}") from error.__cause__
    except AttributeError as error:
        raise MessageError(f"{entry.topic}: expected a {entry.type}, got {error}") from error


def said(event: Event, message: Any) -> bool | str | float:
    """What an event's message says; that there is one, where it holds nothing."""
    if event.type == "std_msgs/msg/Empty":
        return True
    kind = {"Bool": bool, "String": str}.get(event.type.rpartition("/")[2], float)
    return kind(message.data)


def _numbers(entry: Numbers, message: Any, elapsed: float) -> np.ndarray:
    holder = _setpoint(message, elapsed) if entry.type == JOINT_TRAJECTORY else message
    values = np.array(_flat(_reach(holder, entry.path)), np.float64)
    if entry.joints:
        values = _by_name(entry, list(getattr(message, NAMED[entry.type])), values)
    if values.shape != (len(entry.names),):
        raise MessageError(f"{entry.path}: expected {len(entry.names)} numbers, got {values.size}")
    if entry.speeds:
        values = values / entry.speeds
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise NotFinite(f"{entry.path}: expected finite float32 numbers, got {values.tolist()}")
    return values


def _by_name(entry: Numbers, names: list[str], values: np.ndarray) -> np.ndarray:
    if len(values) != len(names):
        raise MessageError(f"{entry.path}: expected one number per joint ({len(names)}), got {len(values)}")
    for joint in entry.joints:
        if (count := names.count(joint)) != 1:
            raise MessageError(f"expected joint {joint!r} once, got it {count} times among {names}")
    return values[[names.index(joint) for joint in entry.joints]]


def _setpoint(message: Any, elapsed: float) -> Any:
    """The point that the controller is heading for `elapsed` s after it got the trajectory: the first not yet due."""
    if not len(message.points):
        raise MessageError("points: expected at least one, got none")
    due = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in message.points]
    return next((p for p, t in zip(message.points, due, strict=True) if t >= elapsed), message.points[-1])


def _reach(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


def _flat(value: Any) -> list[float]:
    if isinstance(value, int | float | np.number):
        return [float(value)]
    if names := next((names for names in PARTS if all(hasattr(value, name) for name in names)), None):
        return [number for name in names for number in _flat(getattr(value, name))]
    try:
        return np.asarray(value, np.float64).ravel().tolist()
    except (TypeError, ValueError) as error:
        raise MessageError(f"expected numbers, got a {type(value).__name__}; is `path` right?") from error


def _image(entry: Pictures, message: Any) -> np.ndarray:
    return _raw(entry, message) if entry.type == IMAGE else _compressed(entry, message)


def _raw(entry: Pictures, message: Any) -> np.ndarray:
    data, camera, (channels, order) = _check_raw(entry, message), entry.camera, CHANNELS[entry.encoding]
    pixels = data.reshape(camera.height, message.step)[:, : camera.width * channels]
    return pixels.reshape(camera.height, camera.width, channels)[..., order]


def _check_raw(entry: Pictures, message: Any) -> np.ndarray:
    """uint8[bytes] of a picture as it should be."""
    camera, (channels, _) = entry.camera, CHANNELS[entry.encoding]
    if message.encoding != entry.encoding:
        raise MessageError(f"expected encoding {entry.encoding}, got {message.encoding!r}")
    _same_size(entry, message.height, message.width)
    data = np.frombuffer(message.data, np.uint8)
    if message.step < camera.width * channels or len(data) != message.step * camera.height:
        raise MessageError(
            f"expected {camera.height} rows of at least {camera.width * channels} bytes, "
            f"got {len(data)} bytes in rows of {message.step}"
        )
    return data


def _compressed(entry: Pictures, message: Any) -> np.ndarray:
    with _opened(entry, message) as image, _decoding(entry, message):
        return np.array(image.convert("RGB"))


def _opened(entry: Pictures, message: Any) -> Any:
    """The picture, nothing of it decoded yet."""
    from PIL import Image

    with _decoding(entry, message):
        image = Image.open(io.BytesIO(bytes(message.data)), formats=(entry.encoding.upper(),))
        _same_size(entry, image.height, image.width)
        if image.mode not in ("RGB", "RGBA", "L"):
            raise MessageError(f"expected 8-bit colour or grey, got mode {image.mode}")
        return image


@contextmanager
def _decoding(entry: Pictures, message: Any) -> Iterator[None]:
    try:
        yield
    except MessageError:
        raise
    except Exception as error:  # decoders of untrusted bytes fail in many ways
        raise MessageError(f"expected {entry.encoding}, got {error}; format says {message.format!r}") from error


def _same_size(entry: Pictures, height: int, width: int) -> None:
    if (height, width) != (entry.camera.height, entry.camera.width):
        raise MessageError(f"expected {entry.camera.height} x {entry.camera.width} pixels, got {height} x {width}")
