"""ros2 launch robot_value simulated_arm.launch.py; --show-args lists all"""

from robot_value.ros_nodes.launching import describe


def generate_launch_description():
    return describe("simulated_arm", __file__)
