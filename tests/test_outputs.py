"""The guard's commands as controllers take them: actions where nothing else is offered, and what is refused at once."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from robot_value.ros_nodes import action_goals
from robot_value.ros_nodes.outputs import Outputs
from robot_value.topics import parse

ARM = {"name": "arm", "topic": "/arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory", "max_age": 0.2}
ARM |= {"joints": ["a", "b"], "kind": "joint", "unit": "rad", "low": -2, "high": 2}
GRIPPER = {"name": "gripper", "topic": "/gripper/commands", "type": "std_msgs/msg/Float64MultiArray", "max_age": 1.0}
GRIPPER |= {"names": ["gripper"], "kind": "gripper", "unit": "1", "low": 0, "high": 1}
TWIST = {"name": "arm", "topic": "/twist", "type": "geometry_msgs/msg/TwistStamped", "max_age": 0.04, "low": -1}
TWIST |= {"names": list("xyz"), "kind": "position", "reference": "current", "unit": "m/s", "high": 1}
FORWARD = {**{key: ARM[key] for key in ARM if key != "joints"}, "type": GRIPPER["type"], "names": ["a", "b"]}
STATE = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "joints": ["a", "b"], "unit": "rad"}
PERIOD = 0.02


def topics_of(*action):
    state = [{**STATE, "max_age": 0.1}]
    return parse({"rate": 20, "max_skew": 0.05, "state": state, "action": list(action), "cameras": []})


SERVERS = []


class Server:
    """A stand-in for rclpy's ActionClient and the controller behind it."""

    def __init__(self, node, kind, action):
        self.kind, self.action, self.goals, self.ready, self.silent, self.accepts = kind, action, [], True, False, True
        SERVERS.append(self)

    def server_is_ready(self):
        return self.ready

    def send_goal_async(self, goal):
        self.goals.append(goal)
        answered, accepted = not self.silent, SimpleNamespace(accepted=self.accepts)
        return SimpleNamespace(done=lambda: answered, exception=lambda: None, result=lambda: accepted)

    def destroy(self):
        self.goals.append("destroyed")


class FollowJointTrajectory:
    Goal = staticmethod(lambda trajectory: trajectory)


class GripperCommand:
    Goal = staticmethod(lambda: SimpleNamespace(command=SimpleNamespace(position=None)))


@pytest.fixture
def control_msgs(monkeypatch):
    action = SimpleNamespace(FollowJointTrajectory=FollowJointTrajectory, GripperCommand=GripperCommand)
    monkeypatch.setitem(sys.modules, "control_msgs", SimpleNamespace(action=action))
    monkeypatch.setitem(sys.modules, "control_msgs.action", action)
    monkeypatch.setattr("rclpy.action.ActionClient", Server)
    SERVERS.clear()


class Node:
    def __init__(self):
        self.sent, self.made = [], 0  # (topic, message)

    def create_lifecycle_publisher(self, kind, topic, qos):
        self.made += 1
        return SimpleNamespace(topic_name=topic, publish=lambda message: self.sent.append((topic, message)))

    def destroy_publisher(self, publisher):
        self.sent.append((publisher.topic_name, "destroyed"))


def send(outputs, *command, grippers=True):
    for each in outputs.made(np.array(command), grippers):
        each()


# mutation: `self.goals[-1]` in the lambda; the arm's joints to the gripper; publish on the topic too.
def test_joints_and_gripper_may_both_be_actions_and_each_gets_its_own_numbers(control_msgs):
    node = Node()
    outputs = Outputs(node, topics_of(ARM, GRIPPER), PERIOD, "/gripper", "/arm/follow_joint_trajectory")
    arm, gripper = SERVERS
    assert (arm.action, gripper.action) == ("/arm/follow_joint_trajectory", "/gripper") and outputs.topics == []
    send(outputs, 0.1, 0.2, 0.7, grippers=False)
    send(outputs, 0.3, 0.2, 0.7)
    assert [goal.points[0].positions.tolist() for goal in arm.goals] == [[0.1, 0.2], [0.3, 0.2]]
    assert arm.goals[0].joint_names == ["a", "b"] and arm.goals[0].points[0].time_from_start.nanosec == 20_000_000
    assert not arm.goals[0].points[0].velocities.tolist() and not node.sent
    assert [goal.command.position for goal in gripper.goals] == [0.7]
    outputs.destroy()
    assert arm.goals[-1] == gripper.goals[-1] == "destroyed"


# mutation: send every command as a goal; compare with the last command instead of the last one sent.
def test_a_gripper_gets_a_goal_only_where_it_is_to_move_and_slow_changes_add_up(control_msgs):
    outputs = Outputs(Node(), topics_of(ARM, GRIPPER), PERIOD, gripper_action="/gripper")
    for position in (0.0, 0.0, 0.0005, 0.0009, 0.0015, 1.0, 1.0):
        send(outputs, 0.0, 0.0, position)
    assert [goal.command.position for goal in SERVERS[0].goals] == [0.0, 0.0015, 1.0]


# mutation: queue goals; take a refused goal as sent; wait for an answer for ever.
def test_one_goal_is_on_its_way_at_a_time_and_the_newest_command_always_arrives(control_msgs, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(action_goals.time, "monotonic", lambda: now[0])
    outputs = Outputs(Node(), topics_of(ARM), PERIOD, trajectory_action="/arm/follow_joint_trajectory")
    (server,), (goals,) = SERVERS, outputs.goals
    server.silent = True
    for a in (0.1, 0.2, 0.3):
        send(outputs, a, 0.0)
    assert [goal.points[0].positions[0] for goal in server.goals] == [0.1]
    now[0] += 1.0  # the server that had it is gone
    server.silent, server.accepts = False, False
    send(outputs, 0.3, 0.0)
    server.accepts = True
    send(outputs, 0.3, 0.0)
    send(outputs, 0.3, 0.0)
    assert [goal.points[0].positions[0] for goal in server.goals] == [0.1, 0.3, 0.3]
    assert (goals.refused, goals.unanswered) == (1, 1)
    server.ready = False
    send(outputs, 0.4, 0.0)
    server.ready = True
    send(outputs, 0.5, 0.0)
    assert [goal.points[0].positions[0] for goal in server.goals] == [0.1, 0.3, 0.3, 0.5]


# mutation: leave publishers behind; import control_msgs at the first goal; accept what a type cannot say.
@pytest.mark.parametrize(
    ("action", "more", "reason"),
    [
        ((ARM,), {"trajectory_action": "/follow"}, "/follow: expected control_msgs for an action"),
        ((ARM, GRIPPER), {"gripper_action": "/grip"}, "/grip: expected control_msgs for an action"),
        ((FORWARD,), {"trajectory_action": "/f"}, "expected an entry with joints"),
        (({**FORWARD, "type": TWIST["type"]},), {}, "expected .*JointTrajectory or .* for absolute joint"),
        (({**TWIST, "type": GRIPPER["type"]},), {}, "expected geometry_msgs/msg/TwistStamped for current position"),
        (({**TWIST, "path": "twist.angular"},), {}, "expected a path among .* for a position, got twist.angular"),
        ((TWIST | {"path": "twist.linear"}, {**TWIST, "name": "b", "path": "twist.linear"}), {}, "a topic of its own"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_moves(action, more, reason):
    node = Node()
    with pytest.raises(ValueError, match=reason):
        Outputs(node, topics_of(*action), PERIOD, **more)
    assert len(node.sent) == node.made and all(word == "destroyed" for _, word in node.sent)


def test_two_arms_are_not_sent_to_one_action(control_msgs):
    # mutation: no check: each period's goal of one arm replaces the other's
    other = {**ARM, "name": "other", "topic": "/other/joint_trajectory", "joints": ["c", "d"]}
    with pytest.raises(ValueError, match="/follow: expected one joint entry for an action, got another, other"):
        Outputs(Node(), topics_of(ARM, other), PERIOD, trajectory_action="/follow")


# mutation: linear numbers into `angular`.
@pytest.mark.parametrize(
    ("kind", "path", "numbers"), [("position", "twist.linear", "linear"), ("rotation", "twist.angular", "angular")]
)
def test_half_a_twist_leaves_the_other_half_at_zero(kind, path, numbers):
    rotation = {"rotation": "axis_angle", "unit": "0.5 rad"} if kind == "rotation" else {"unit": "0.5 m"}
    node = Node()
    node.get_clock = lambda: SimpleNamespace(now=lambda: SimpleNamespace(to_msg=stamp))
    outputs = Outputs(node, topics_of({**TWIST, "kind": kind, "path": path, **rotation, "frame": "tool0"}), PERIOD)
    send(outputs, 0.1, 0.2, -0.3)
    ((topic, message),) = node.sent
    said = {name: [getattr(getattr(message.twist, name), x) for x in "xyz"] for name in ("linear", "angular")}
    np.testing.assert_allclose(said.pop(numbers), [1.0, 2.0, -3.0])  # 0.5 per 50 ms
    assert topic == "/twist" and said.popitem()[1] == [0, 0, 0] and message.header.frame_id == "tool0"
    assert message.header.stamp.sec == 7


def stamp():
    from builtin_interfaces.msg import Time

    return Time(sec=7)
