"""`--policy.type=robot_value`: a LeRobot checkpoint proposes, a critic of robot_value chooses.

LeRobot finds the parts by their names: configuration_robot_value, modeling_robot_value, processor_robot_value.
"""

from .configuration_robot_value import RobotValueConfig as RobotValueConfig
