"""How the guard's commands leave: one output per `action` entry of the topic YAML, its type says which.

JointTrajectory (joint_trajectory_controller): one point, due in one period, positions only, for a controller refuses a
last point with a velocity. Float64MultiArray (forward and position controllers): the numbers. A gripper may go to a
GripperCommand action instead, where control_msgs is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from rclpy.duration import Duration
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value.topics import JOINT_TRAJECTORY, Topics

from .managed import COMMAND, ManagedNode

FORWARD = "std_msgs/msg/Float64MultiArray"
MESSAGES = {JOINT_TRAJECTORY: JointTrajectory, FORWARD: Float64MultiArray}
Make = Callable[[list[float]], Callable[[], None]]  # numbers -> a call that sends them
MOVED = 1e-3  # spec units, from which on a gripper's action gets a new goal


class Outputs:
    """Lifecycle publishers on the controllers' topics: silent outside ACTIVE. Raises ValueError for unknown types."""

    def __init__(self, node: ManagedNode, topics: Topics, period: float, gripper_action: str = "") -> None:
        self._node, self._publishers, self._makes = node, [], []
        self._due = Duration(seconds=period).to_msg()
        for entry, part in zip(topics.action, topics.parts, strict=True):
            if part.kind == "gripper" and gripper_action:
                make = _gripper(node, gripper_action)
            elif entry.type not in MESSAGES:
                raise ValueError(f"{entry.topic}: expected one of {', '.join(MESSAGES)}, got {entry.type}")
            else:
                publisher = node.create_lifecycle_publisher(MESSAGES[entry.type], entry.topic, COMMAND)
                self._publishers.append(publisher)
                make = self._trajectory(publisher, entry.joints) if entry.joints else _numbers(publisher)
            self._makes.append((part.slice, part.kind == "gripper", make))

    @property
    def topics(self) -> list[str]:
        return [publisher.topic_name for publisher in self._publishers]

    def made(self, command: np.ndarray, grippers: bool) -> list[Callable[[], None]]:
        """float64[A] as messages, each to be sent by a call; without `grippers` those are left as they are."""
        return [make(command[part].tolist()) for part, is_gripper, make in self._makes if grippers or not is_gripper]

    def destroy(self) -> None:
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _trajectory(self, publisher: object, joints: tuple[str, ...]) -> Make:
        return lambda positions: partial(publisher.publish, one_point(joints, positions, self._due))


def one_point(joints: tuple[str, ...], positions: list[float], due: object) -> JointTrajectory:
    point = JointTrajectoryPoint(positions=positions, time_from_start=due)
    return JointTrajectory(joint_names=list(joints), points=[point])


def _numbers(publisher: object) -> Make:
    return lambda numbers: partial(publisher.publish, Float64MultiArray(data=numbers))


def _gripper(node: ManagedNode, action: str) -> Make:
    from control_msgs.action import GripperCommand  # not on PyPI; part of every ROS distribution
    from rclpy.action import ActionClient

    client, sent = ActionClient(node, GripperCommand, action), [np.inf]

    def send(positions: list[float]) -> None:
        if abs(positions[0] - sent[0]) > MOVED and client.server_is_ready():
            sent[0] = positions[0]
            goal = GripperCommand.Goal()
            goal.command.position = positions[0]
            client.send_goal_async(goal)

    return lambda positions: partial(send, positions)
