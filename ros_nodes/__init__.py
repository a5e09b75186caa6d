"""ROS 2 nodes: thin rclpy wrappers around robot_value; they start without torch unless they need it."""

from .shared_memory import check_room

check_room()  # every node imports rclpy right after
