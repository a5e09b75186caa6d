"""A frozen Config dataclass as ROS parameters: comments are the descriptions, `number` gives ranges, nested names dots.

rate: float = number(50.0, 1.0, 1000.0)  # Hz, ticks of the guard
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from functools import partial
from typing import Any, get_type_hints

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

KINDS = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[bool, ...]: ParameterType.PARAMETER_BOOL_ARRAY,
    tuple[int, ...]: ParameterType.PARAMETER_INTEGER_ARRAY,
    tuple[float, ...]: ParameterType.PARAMETER_DOUBLE_ARRAY,
    tuple[str, ...]: ParameterType.PARAMETER_STRING_ARRAY,
}


class ParameterError(ValueError):
    """A parameter's value cannot be used; the message names it, what was expected and what came."""


def number(default: Any, low: float, high: float) -> Any:
    """A field with limits, both allowed. Of a tuple every entry must be within them."""
    return field(default=default, metadata={"low": low, "high": high})


def declare[T](node: Node, config: type[T]) -> None:
    """One read-only parameter per field. rclpy refuses other types, and numbers out of range or not finite."""
    for item in fields(config):
        if item.default == ():
            raise TypeError(f"{item.name}: expected a default with entries, got (), which rclpy takes for bytes")
        node.declare_parameter(item.name, _plain(item.default), _descriptor(config, item))
    node.add_on_set_parameters_callback(partial(_arrays_in_range, {item.name: item for item in fields(config)}))


def read[T](node: Node, config: type[T]) -> T:
    """The Config as it is set. Raises ParameterError."""
    values = {}
    for item in fields(config):
        value = node.get_parameter(item.name).value
        if reason := _why_out_of_range(item, value):
            raise ParameterError(reason)
        values[item.name] = tuple(value) if isinstance(item.default, tuple) else value
    try:
        return config(**values)
    except ValueError as error:
        raise ParameterError(str(error)) from error


def _descriptor(config: type, item: Field) -> ParameterDescriptor:
    from draccus.wrappers.docstring import get_attribute_docstring

    kind = get_type_hints(config)[item.name]
    if kind not in KINDS or item.default is MISSING:
        raise TypeError(f"{config.__name__}.{item.name}: expected a default and one of {list(KINDS)}, got {kind}")
    said = get_attribute_docstring(config, item.name)
    text = said.comment_inline or said.comment_above
    descriptor = ParameterDescriptor(type=KINDS[kind], description=text, read_only=True)
    if item.metadata:
        low, high = item.metadata["low"], item.metadata["high"]
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)] if kind is float else []
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)] if kind is int else []
    return descriptor


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _why_out_of_range(item: Field, value: Any) -> str:
    if not item.metadata:
        return ""
    numbers = value if isinstance(value, list | tuple) or hasattr(value, "__len__") else [value]
    low, high = item.metadata["low"], item.metadata["high"]
    bad = [x for x in numbers if not (math.isfinite(x) and low <= x <= high)]
    return f"{item.name}: expected {low} to {high}, got {bad[0]}" if bad else ""


def _arrays_in_range(known: Mapping[str, Field], changed: list[Parameter]) -> SetParametersResult:
    """rclpy has ranges for single numbers only."""
    reasons = [_why_out_of_range(known[p.name], p.value) for p in changed if p.name in known]
    reason = next(filter(None, reasons), "")
    return SetParametersResult(successful=not reason, reason=reason)
