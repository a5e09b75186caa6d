"""Messages as bytes (CDR): their type by name, and their header without deserialising the rest."""

from __future__ import annotations

import importlib
import struct
from typing import Any

from robot_value.resampling import SECOND

HEADER = "std_msgs/Header"


def message_type(name: str) -> Any:
    """The class of e.g. "sensor_msgs/msg/JointState". Raises ValueError where it is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected the message type {name}, got {error}; install or source its package") from error


def is_stamped(kind: Any) -> bool:
    """Whether a header comes first."""
    return next(iter(kind.get_fields_and_field_types().values()), "") == HEADER


def header(raw: bytes) -> tuple[int, str]:
    """Stamp in ns (0 where nobody set it) and frame_id of a stamped message."""
    order = "<" if raw[1] & 1 else ">"
    seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
    return seconds * SECOND + nanoseconds, bytes(raw[16 : 15 + length]).decode(errors="replace")
