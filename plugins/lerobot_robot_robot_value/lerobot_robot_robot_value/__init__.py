"""An arm behind robot_value's ROS 2 guard, for unmodified lerobot-rollout, -record, -replay: `--robot.type=ros2_guard`.

rclpy is imported where an arm connects, so that LeRobot's other commands need no ROS.
"""

from .arm import Ros2GuardArm as Ros2GuardArm
from .config import Ros2GuardArmConfig as Ros2GuardArmConfig
