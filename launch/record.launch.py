"""ros2 launch robot_value record.launch.py robot:=franka teleop:=joystick store:=demos; --show-args lists all"""

from robot_value.ros_nodes.launching import describe


def generate_launch_description():
    return describe("record", __file__)
