"""ros2 launch robot_value replay.launch.py robot:=franka policy:=RUN/policy episodes:=demos; --show-args lists all"""

from robot_value.ros_nodes.launching import describe


def generate_launch_description():
    return describe("replay", __file__)
