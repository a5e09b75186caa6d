"""Commands as goals of a ROS action, for controllers that offer nothing else: each new goal replaces the last one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .managed import ManagedNode

MOVED = 1e-3  # spec units, from which on a gripper gets a new goal
PATIENCE = 0.5  # s without an answer to a goal, after which the server is taken to have forgotten it


class ActionGoals:
    """One goal is on its way at a time; what cannot be sent now is not queued: the next period has a newer command."""

    def __init__(
        self,
        node: ManagedNode,
        kind: type,
        action: str,
        goal: Callable[[np.ndarray], Any],  # float64[dims] -> the kind's Goal
        least: float,  # spec units; a command that differs by no more from the last accepted one is left out
    ) -> None:
        from rclpy.action import ActionClient

        self.action, self.refused, self.unanswered = action, 0, 0
        self._client, self._goal, self._least = ActionClient(node, kind, action), goal, least
        self._sent: np.ndarray | None = None  # float64[dims], on its way or accepted
        self._answer: Any = None  # future of the goal that is on its way
        self._asked = 0.0  # s, when

    def send(self, values: np.ndarray) -> None:
        """`values`: float64[dims]. Nothing is sent twice, and nothing while there is no server."""
        if self._answer is not None and not self._answered():
            return
        known = self._sent is not None and np.abs(values - self._sent).max() <= self._least
        if known or not self._client.server_is_ready():
            return
        self._sent, self._asked = values, time.monotonic()
        self._answer = self._client.send_goal_async(self._goal(values))

    def _answered(self) -> bool:
        """Also where no answer will come any more; a goal that was not accepted is sent again."""
        if self._answer.done():
            accepted = self._answer.exception() is None and self._answer.result().accepted
            self.refused += not accepted
        elif time.monotonic() - self._asked > PATIENCE:
            accepted, self.unanswered = False, self.unanswered + 1
        else:
            return False
        self._answer, self._sent = None, self._sent if accepted else None
        return True

    def destroy(self) -> None:
        self._client.destroy()


def gripper_goals(node: ManagedNode, action: str) -> ActionGoals:
    """GripperCommand, of one number. Raises ValueError without control_msgs."""
    kind = _control_msgs(action).GripperCommand

    def goal(position: np.ndarray) -> Any:
        goal = kind.Goal()
        goal.command.position = float(position[0])
        return goal

    return ActionGoals(node, kind, action, goal, MOVED)


def trajectory_goals(node: ManagedNode, action: str, as_trajectory: Callable[[np.ndarray], Any]) -> ActionGoals:
    """FollowJointTrajectory; `as_trajectory` makes float64[dims] a JointTrajectory. Raises as `gripper_goals`."""
    kind = _control_msgs(action).FollowJointTrajectory
    return ActionGoals(node, kind, action, lambda values: kind.Goal(trajectory=as_trajectory(values)), 0.0)


def _control_msgs(action: str) -> Any:
    try:
        from control_msgs import action as kinds  # not on PyPI; of every ROS distribution
    except ImportError as error:
        message = f"{action}: expected control_msgs for an action (apt install ros-$ROS_DISTRO-control-msgs)"
        raise ValueError(f"{message}, got {error}") from error
    return kinds
