"""How the guard's commands leave: one output per `action` entry of the topic YAML, its type says which.

JointTrajectory (joint_trajectory_controller): one point, due in one period, positions only, for a controller refuses a
last point with a velocity. Float64MultiArray (forward and position controllers): the numbers. TwistStamped (MoveIt
Servo): velocities in m/s and rad/s. Where control_msgs is installed, a gripper may go to a GripperCommand action
instead, and joints to a FollowJointTrajectory action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.duration import Duration
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value.safety import is_twist
from robot_value.topics import JOINT_TRAJECTORY, TWIST, Numbers, Topics
from robot_value.types import ActionPart

from .action_goals import gripper_goals, trajectory_goals
from .managed import COMMAND, ManagedNode

FORWARD = "std_msgs/msg/Float64MultiArray"
MESSAGES = {JOINT_TRAJECTORY: JointTrajectory, FORWARD: Float64MultiArray, TWIST: TwistStamped}
Make = Callable[[np.ndarray], Callable[[], None]]  # float64[dims], the entry's part of the command -> a call to send it


class Outputs:
    """Lifecycle publishers on the controllers' topics: silent outside ACTIVE. Raises ValueError for unknown types."""

    def __init__(
        self,
        node: ManagedNode,
        topics: Topics,
        period: float,  # s
        gripper_action: str = "",
        trajectory_action: str = "",
        twist_frame: str = "",  # tf frame of the twists; empty: what the part says
    ) -> None:
        self._node, self._publishers, self._makes, self.goals = node, [], [], []
        self._due = Duration(seconds=period).to_msg()
        self._actions = {"gripper": gripper_action, "joint": trajectory_action}
        self._frame = twist_frame
        try:
            self._make(topics)
        except ValueError:
            self.destroy()
            raise

    @property
    def topics(self) -> list[str]:
        return [publisher.topic_name for publisher in self._publishers]

    def made(self, command: np.ndarray, grippers: bool) -> list[Callable[[], None]]:
        """float64[A] as messages, each to be sent by a call; without `grippers` those are left as they are."""
        return [make(command[part]) for part, is_gripper, make in self._makes if grippers or not is_gripper]

    def destroy(self) -> None:
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        for goals in self.goals:
            goals.destroy()

    def _make(self, topics: Topics) -> None:
        for entry, part in zip(topics.action, topics.parts, strict=True):
            make = self._as_goals(entry, part) if self._actions.get(part.kind) else self._as_messages(entry, part)
            self._makes.append((part.slice, part.kind == "gripper", make))
        if len(set(self.topics)) < len(self._publishers):
            raise ValueError(f"action: expected a topic of its own per entry, got {self.topics}")

    def _as_messages(self, entry: Numbers, part: ActionPart) -> Make:
        if entry.type not in MESSAGES or is_twist(part) != (entry.type == TWIST):
            fit = TWIST if is_twist(part) else f"{JOINT_TRAJECTORY} or {FORWARD}"
            raise ValueError(f"{entry.topic}: expected {fit} for {part.reference} {part.kind}, got {entry.type}")
        publisher = self._node.create_lifecycle_publisher(MESSAGES[entry.type], entry.topic, COMMAND)
        self._publishers.append(publisher)
        if is_twist(part):
            return self._twist(publisher, entry, part)
        return self._trajectory(publisher, entry.joints) if entry.joints else _numbers(publisher)

    def _trajectory(self, publisher: Any, joints: tuple[str, ...]) -> Make:
        return lambda positions: partial(publisher.publish, self._point(joints, positions))

    def _point(self, joints: tuple[str, ...], positions: np.ndarray) -> JointTrajectory:
        return one_point(joints, positions.tolist(), self._due)

    def _twist(self, publisher: Any, entry: Numbers, part: ActionPart) -> Make:
        fields = {"twist": "pose", "twist.linear": "position", "twist.angular": "rotation"}
        if fields.get(entry.path) != part.kind:
            raise ValueError(f"{entry.topic}: expected a path among {fields} for a {part.kind}, got {entry.path}")
        first, speeds = 3 * (part.kind == "rotation"), np.array(entry.speeds)

        def make(values: np.ndarray) -> Callable[[], None]:
            numbers, message = np.zeros(6), TwistStamped()
            numbers[first : first + values.size] = values * speeds
            message.header.frame_id = self._frame or part.frame
            message.header.stamp = self._node.get_clock().now().to_msg()
            for vector, three in ((message.twist.linear, numbers[:3]), (message.twist.angular, numbers[3:])):
                vector.x, vector.y, vector.z = three.tolist()
            return partial(publisher.publish, message)

        return make

    def _as_goals(self, entry: Numbers, part: ActionPart) -> Make:
        """An action instead of the entry's topic."""
        action = self._actions[part.kind]
        if any(goals.action == action for goals in self.goals):
            raise ValueError(f"{action}: expected one {part.kind} entry for an action, got another, {part.name}")
        if part.kind == "gripper":
            goals = gripper_goals(self._node, action)
        elif entry.joints:
            goals = trajectory_goals(self._node, action, partial(self._point, entry.joints))
        else:
            raise ValueError(f"{entry.topic}: expected an entry with joints for a trajectory_action, got {entry.type}")
        self.goals.append(goals)
        return lambda values: partial(goals.send, values)


def one_point(joints: tuple[str, ...], positions: list[float], due: object) -> JointTrajectory:
    point = JointTrajectoryPoint(positions=positions, time_from_start=due)
    return JointTrajectory(joint_names=list(joints), points=[point])


def _numbers(publisher: Any) -> Make:
    return lambda numbers: partial(publisher.publish, Float64MultiArray(data=numbers.tolist()))
