"""The node table as a ROS launch description; all that our launch files call. Needs ROS's `launch` and `launch_ros`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import node_table


def describe(name: str, file: str) -> Any:
    """LaunchDescription of `LAUNCHES[name]`, whose parameter files lie beside the launch file `file`."""
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.substitutions import LaunchConfiguration

    from launch import LaunchDescription

    arguments = node_table.LAUNCHES[name].arguments

    def nodes(context: Any) -> list[Any]:
        given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}
        return [_node(each) for each in node_table.processes(name, given, Path(file).resolve().parent)]

    said = [DeclareLaunchArgument(a.name, default_value=a.default, description=a.description) for a in arguments]
    return LaunchDescription([*said, OpaqueFunction(function=nodes)])


def _node(process: node_table.Process) -> Any:
    from launch_ros.actions import Node

    parameters = [*map(str, process.files), *([dict(process.parameters)] if process.parameters else [])]
    about = {"name": process.name, "namespace": node_table.NAMESPACE, "output": "screen", "parameters": parameters}
    return Node(**node_table.program(process.executable), **about)
