"""ros2 launch robot_value doctor.launch.py checkpoint:=/path/to/folder"""

import sys
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

PARAMETERS = Path(__file__).resolve().parent / "params" / "doctor.yaml"


def program(name):
    """The installed executable; in an editable install, which has none, the module with this interpreter."""
    try:
        if (Path(get_package_prefix("robot_value")) / "lib" / "robot_value" / name).exists():
            return {"package": "robot_value", "executable": name}
    except (PackageNotFoundError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        pass
    return {"executable": sys.executable, "arguments": ["-m", f"robot_value.ros_nodes.{name}"]}


def generate_launch_description():
    checkpoint = DeclareLaunchArgument("checkpoint", default_value="", description="Checkpoint folder; empty: none")
    chosen = {"checkpoint": ParameterValue(LaunchConfiguration("checkpoint"), value_type=str)}
    node = Node(**program("doctor_node"), name="doctor_node", output="screen", parameters=[str(PARAMETERS), chosen])
    return LaunchDescription([checkpoint, node])
