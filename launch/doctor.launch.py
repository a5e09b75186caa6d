"""ros2 launch robot_value doctor.launch.py checkpoint:=/path/to/folder"""

from robot_value.ros_nodes.launching import describe


def generate_launch_description():
    return describe("doctor", __file__)
