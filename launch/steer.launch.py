"""ros2 launch robot_value steer.launch.py robot:=franka policy:=P critic:=C; --show-args lists all"""

from robot_value.ros_nodes.launching import describe


def generate_launch_description():
    return describe("steer", __file__)
