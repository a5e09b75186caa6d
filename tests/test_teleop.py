"""A human's hand on the arm: what it may ask for, when it owns the arm, and the node between it and the guard."""

import os
import pty
import signal
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robot_value import wire
from robot_value.deploy.teleoperation import AHEAD, Hand, Keys, Pad, Reach, Wish, closing, joint_velocity
from robot_value.types import ActionPart, Spec, SpecMismatch

ARM = ActionPart("arm", 0, 2, "joint", "rad", (-1.0, -2.0), (1.0, 2.0))
GRIPPER = ActionPart("gripper", 2, 3, "gripper", "m", (0.0,), (0.08,), sign=-1)
SPEC = Spec((ARM, GRIPPER), ("a", "b", "g"), ("rad", "rad", "m"), 0.05)
REACH = Reach.from_spec(SPEC, speed=0.5, gripper_speed=1.0, ramp=0.25)
DT = 0.02


def drive(hand, wishes, follow=True):
    """Targets float64[T, A] of a hand whose every command is executed."""
    executed, targets = hand.position.copy(), []
    for wish in wishes:
        points, _ = hand.advance(wish, executed)
        targets.append(points[0])
        executed = points[0] if follow else executed
    return np.array(targets)


def taken(position=(0.0, 0.0, 0.04), points=3):
    hand = Hand(REACH, DT, points)
    hand.take(np.array(position))
    return hand


def wish(*velocity):
    return Wish(True, np.array(velocity))


# -- the hand ----------------------------------------------------------------------------------------------------------


def test_full_deflection_reaches_full_speed_after_the_ramp_and_never_more():
    # mutation: no acceleration limit
    targets = drive(taken(), [wish(1.0, -1.0, 0.0)] * 40)
    velocity = np.diff(targets, axis=0) / DT
    assert np.isclose(velocity[-1], [0.5, -0.5, 0.0]).all()
    assert np.abs(velocity[:, :2]).max() <= 0.5 + 1e-9
    assert np.isclose(velocity[:11, 0], 0.5 * np.arange(2, 13) * DT / 0.25).all()


@example([(1.0, -1.0, 1.0)] * 60)
@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=80))
def test_whatever_the_hand_does_targets_keep_position_speed_and_acceleration_limits(velocities):
    # mutation: leave `room` out of advance; leave np.clip of the wish's change out
    hand = taken((0.9, -1.9, 0.07))
    targets = drive(hand, [wish(*np.clip(v, -1, 1)) for v in velocities])
    assert (targets >= REACH.low).all() and (targets <= REACH.high).all()
    speeds = np.diff(np.vstack([[0.9, -1.9, 0.07], targets]), axis=0) / DT
    assert (np.abs(speeds) <= REACH.speed + 1e-9).all()
    assert (np.abs(np.diff(speeds, axis=0, prepend=0)) <= REACH.acceleration * DT + 1e-9).all()


def test_a_leader_arm_is_followed_at_limited_speed_and_met_without_overshoot():
    # mutation: _toward without _braked
    target = np.array([0.7, -0.3, 0.0])
    targets = drive(taken(), [Wish(True, np.zeros(3), target)] * 250)
    assert np.allclose(targets[-1], target, atol=1e-4)
    assert (targets[:, 0] <= 0.7 + 2e-3).all() and (targets[:, 1] >= -0.3 - 2e-3).all()
    assert np.abs(np.diff(targets, axis=0)).max() <= 0.5 * DT + 1e-9


def test_the_target_waits_for_an_arm_that_does_not_follow():
    # mutation: leash of infinity: the arm would run on long after the hand has stopped
    targets = drive(taken(), [wish(1.0, 0.0, 0.0)] * 200, follow=False)
    assert np.isclose(targets[-1, 0], AHEAD * 0.5)


def test_points_go_on_at_the_velocity_that_is_said_and_stay_inside():
    # mutation: velocities of zero; ahead without the clip
    hand = taken(points=4)
    for _ in range(20):
        points, velocities = hand.advance(wish(0.5, 0.0, 0.0), hand.position)
    assert points.shape == velocities.shape == (4, 3)
    assert np.allclose(np.diff(points, axis=0) / DT, velocities[:-1])
    near = taken((0.999, 0.0, 0.04), points=50)
    near.velocity[0] = 0.02
    assert (near.advance(wish(1.0, 0.0, 0.0), near.position)[0] <= REACH.high).all()


def test_a_cartesian_arm_is_refused_with_a_way_out():
    # mutation: accept every kind
    pose = ActionPart("pose", 0, 3, "position", "m", (-1,) * 3, (1,) * 3)
    with pytest.raises(SpecMismatch, match="MoveIt Servo"):
        Reach.from_spec(Spec((pose,), (), (), 0.05), 0.5, 1.0, 0.25)


# -- what the hand holds -----------------------------------------------------------------------------------------------


def test_a_joystick_owns_the_arm_while_the_deadman_is_held_and_moves_the_dims_of_its_layout():
    # mutation: axes and shifted swapped; quiet ignored
    pad = Pad(deadman=4, axes=(1, 0), shift=5, shifted=(-1, 3), closing=0, opening=1)
    closes = closing(SPEC)
    held = [0, 0, 0, 0, 1, 0]
    assert np.allclose(pad.wish([0.5, -1.0, 0.0, 0.9], held, closes).velocity, [-1.0, 0.5, 0.0])
    assert not pad.wish([0.5, -1.0, 0.0, 0.9], [0] * 6, closes).owns
    assert np.allclose(pad.wish([0.5, -1.0, 0.0, 0.9], [0, 0, 0, 0, 1, 1], closes).velocity, [0.0, 0.9, 0.0])
    assert np.allclose(pad.wish([0.05, np.nan, 0.0, 0.0], [1, 0, 0, 0, 1, 0], closes).velocity, [0.0, 0.0, -1.0])
    assert pad.wish([], [], closes).owns is False  # a pad with fewer buttons is no crash


def test_keys_move_while_they_repeat_and_space_takes_and_gives_back():
    # mutation: `hold` of infinity
    keys = Keys(closing(SPEC), hold=0.15)
    assert not keys.wish(0.0).owns
    for at, key in ((0.0, " "), (0.1, "2"), (0.2, "s")):
        keys.press(key, at)
    assert keys.wish(0.3).owns and np.allclose(keys.wish(0.3).velocity, [0, -1, 0])
    assert not keys.wish(0.36).velocity.any()
    keys.press("o", 0.4)
    assert np.allclose(keys.wish(0.45).velocity, [0, 0, 1])  # sign -1: larger opens
    keys.press("9", 0.4), keys.press("ö", 0.4), keys.press(" ", 0.5)
    assert not keys.wish(0.5).owns


def test_a_twist_moves_the_tool_along_the_wanted_line():
    # mutation: no transpose; no damping
    def tool(q):  # a planar arm of two links, on a rail along z
        a, b = q[:, 0], q[:, 0] + q[:, 1]
        return np.stack([np.cos(a) + np.cos(b), np.sin(a) + np.sin(b), q[:, 2]], axis=1)

    joints, linear = np.array([0.3, 1.2, 0.0]), np.array([0.1, -0.05, 0.02])
    velocity = joint_velocity(tool, joints, linear, damping=1e-3)
    moved = (tool((joints + 1e-3 * velocity)[None]) - tool(joints[None]))[0] / 1e-3
    assert np.allclose(moved, linear, atol=1e-3)
    stretched = joint_velocity(tool, np.zeros(3), np.array([0.1, 0.0, 0.0]))
    assert np.abs(stretched).max() < 0.1  # singular: slow, not wild


# -- the node ----------------------------------------------------------------------------------------------------------

TOPICS = """
rate: 20.0
max_skew: .inf
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [a, b], unit: rad, max_age: 0.1}
action:
  - {name: arm, topic: /arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory, joints: [a, b], kind: joint,
     unit: rad, low: [-1.0, -2.0], high: [1.0, 2.0], max_age: 0.2}
cameras: []
"""


@pytest.fixture
def graph(tmp_path):
    pytest.importorskip("rclpy")
    from ros_graph import Graph

    (tmp_path / "topics.yaml").write_text(TOPICS)
    with Graph(tmp_path) as graph:
        yield graph


@pytest.fixture
def guard(graph, tmp_path):
    """A stand-in: says at 50 Hz what it executes, which is what the newest takeover asked for."""
    from std_msgs.msg import Bool
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    spec_names = ["a", "b"]
    executed = graph.publisher(JointTrajectory, "executed", 10)
    heard = graph.listen(JointTrajectory, "takeover")
    intervention = graph.listen(Bool, "intervention")

    class Guard:
        takeover, owned, position, seq, talking = heard, intervention, [0.25, -0.5], 0, True

    def speak():
        if Guard.talking:
            Guard.seq += 1
            message = JointTrajectory(joint_names=spec_names, points=[JointTrajectoryPoint()])
            message.header.frame_id = wire.header(wire.About(Guard.seq, 3, 17, 1, 1, 1, "x"))
            message.points[0].positions = Guard.position
            message.points[0].time_from_start.nanosec = 20_000_000
            executed.publish(message)

    timer = graph.probe.create_timer(0.02, speak)
    yield Guard
    timer.cancel()


def begin(graph, tmp_path, **parameters):
    process = graph.start("teleop_node", {"topics": str(tmp_path / "topics.yaml"), **parameters})
    graph.wait_state(process)
    return process


def test_a_joystick_takes_the_arm_over_from_where_it_is_and_gives_it_back(graph, guard, tmp_path):
    # mutation: hand.take(zeros); no False on `intervention`; ignore `timeout`
    from sensor_msgs.msg import Joy

    joystick = graph.publisher(Joy, "/joy", 10)
    process = begin(graph, tmp_path, deadman=0, axes=[0, 1], close_button=-1, open_button=-1)
    graph.wait_for_subscriber(joystick)
    guard.takeover.wait_for_publisher()
    joystick.publish(Joy(axes=[0.0, 0.0], buttons=[0]))
    time.sleep(0.2)
    assert not guard.takeover.messages and not guard.owned.messages
    pressed = time.monotonic_ns()
    timer = graph.probe.create_timer(0.02, lambda: joystick.publish(Joy(axes=[1.0, 0.0], buttons=[1])))
    at, first = guard.takeover.wait()
    assert at - pressed < 1e9
    plan = wire.parse_plan(first, ["a", "b"])
    assert np.allclose(plan.actions[0], guard.position, atol=0.01) and plan.about.source == wire.HUMAN
    assert (plan.about.episode, plan.about.step, plan.about.start) == (3, 17, 0) and np.isclose(plan.dt, 0.02)
    guard.owned.wait(lambda m: m.data)
    guard.takeover.wait(lambda m: m.points[0].positions[0] > 0.28)
    timer.cancel()  # the pad is unplugged
    at, _ = guard.owned.wait(lambda m: not m.data)
    time.sleep(0.2)
    assert not guard.takeover.since(at + 50_000_000)
    assert process.end(signal.SIGINT) == 0 and "Traceback" not in process.said


def test_without_a_guard_the_arm_cannot_be_taken_over_and_services_own_it_with_one(graph, guard, tmp_path):
    # mutation: leave the check of `fresh` out
    from std_srvs.srv import Trigger

    guard.talking = False
    begin(graph, tmp_path)
    guard.takeover.wait_for_publisher()
    assert graph.call(Trigger, "teleop/take").success
    time.sleep(0.3)
    assert not guard.takeover.messages
    guard.talking = True
    guard.owned.wait(lambda m: m.data)
    _, message = guard.takeover.wait()
    assert np.allclose(message.points[0].positions, guard.position)
    assert graph.call(Trigger, "teleop/give_back").success
    guard.owned.wait(lambda m: not m.data)


def test_a_leader_arm_is_found_by_joint_names_and_a_broken_one_moves_nothing(graph, guard, tmp_path):
    # mutation: positions in the message's order
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    leader = graph.publisher(JointTrajectory, "leader", 10)
    begin(graph, tmp_path, source="trajectory", input="leader", speed=1.0)
    graph.wait_for_subscriber(leader)
    guard.takeover.wait_for_publisher()
    broken = JointTrajectory(joint_names=["b"], points=[JointTrajectoryPoint(positions=[0.0])])
    for _ in range(6):  # and does not end the node, as so many exceptions of callbacks would
        leader.publish(broken)
        time.sleep(0.05)
    assert not guard.takeover.messages and graph.state("teleop") == "active"
    message = JointTrajectory(joint_names=["b", "a"], points=[JointTrajectoryPoint(positions=[-0.5, 0.45])])
    timer = graph.probe.create_timer(0.02, lambda: leader.publish(message))
    _, last = guard.takeover.wait(lambda m: m.points[0].positions[0] > 0.4)
    assert np.isclose(last.points[0].positions[1], -0.5)
    timer.cancel()


def test_a_keyboard_needs_a_terminal_and_reads_it_without_waiting(monkeypatch):
    # mutation: read without select
    pytest.importorskip("rclpy")
    from robot_value.ros_nodes import terminal

    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        keyboard = terminal.Terminal()
        assert keyboard.pressed() == ""
        os.write(ours, b" 2w")
        time.sleep(0.05)
        assert keyboard.pressed() == " 2w"
        keyboard.close()
    os.close(ours)
    with open(os.devnull) as stdin, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        with pytest.raises(ValueError, match="expected a terminal"):
            terminal.Terminal()


# -- with the real guard and the simulated arm -------------------------------------------------------------------------


# Nothing is to run out on a machine that is busy.
PATIENT = {"guard": {"max_state_age": 0.5}, "teleop": {"fresh": 2.0, "timeout": 0.5, "points": 25}}


def test_the_human_moves_the_arm_through_the_guard_and_nothing_jumps_at_either_end(tmp_path):
    # mutation: publish `takeover` without `intervention`; hand.take(zeros)
    pytest.importorskip("rclpy")
    import yaml
    from ros_graph import ROOT, Graph
    from sensor_msgs.msg import Joy
    from std_msgs.msg import Bool
    from trajectory_msgs.msg import JointTrajectory

    profile = yaml.safe_load((ROOT / "launch/params/simulated_panda_first_order.yaml").read_text())
    told = {"topics": str(ROOT / "launch/params/simulated_panda_first_order_topics.yaml")}
    with Graph(tmp_path) as graph:
        nodes = ("simulated_arm", "guard", "teleop")
        words = {node: {**profile[f"/**/{node}"]["ros__parameters"], **told, **PATIENT.get(node, {})} for node in nodes}
        for process in [graph.start(f"{node}_node", words[node]) for node in nodes]:
            graph.wait_state(process, timeout=60)
        executed, owned = graph.listen(JointTrajectory, "executed", 100), graph.listen(Bool, "intervention")
        joystick = graph.publisher(Joy, "/joy", 10)
        graph.wait_for_subscriber(joystick)
        owned.wait_for_publisher()
        _, message = executed.wait()
        held = Joy(axes=[1.0, 0.0, 0.0, 0.0, 0.0], buttons=[0, 0, 0, 0, 1, 0])
        timer = graph.probe.create_timer(0.02, lambda: joystick.publish(held))
        executed.wait(lambda m: m.points[0].positions[0] - message.points[0].positions[0] > 0.1)
        timer.cancel()
        owned.wait(lambda m: not m.data)
        time.sleep(0.5)
        commands = [(wire.parse_header(m.header.frame_id), m.points[0].positions) for _, m in executed.messages]
    human = [i for i, (about, _) in enumerate(commands) if about.source == wire.HUMAN]
    assert len(human) > 10 and human[-1] < len(commands) - 5  # and the guard holds afterwards: no plan
    speeds = np.abs(np.diff(np.array([positions for _, positions in commands]), axis=0)) / DT
    assert 0.2 < speeds.max() < 1.2  # the hand has 0.5 rad/s, the guard allows 2.2: no jump at either end


JOINT = (
    '<joint name="{}" type="{}"><parent link="{}"/><child link="{}"/><origin xyz="{} 0 0"/><axis xyz="0 0 1"/></joint>'
)
CHAIN = [
    ("a", "revolute", "base", "upper", 0),
    ("b", "revolute", "upper", "lower", 1),
    ("t", "fixed", "lower", "tool", 1),
]
LINKS = "".join(f'<link name="{name}"/>' for name in ("base", "upper", "lower", "tool"))
URDF = f'<robot name="two_links">{LINKS}{"".join(JOINT.format(*joint) for joint in CHAIN)}</robot>'


def test_a_twist_becomes_joint_velocities_of_the_arms_own_model(tmp_path):
    # mutation: the tool's x as y; speeds not divided by full speed
    pytest.importorskip("rclpy")
    from unittest.mock import MagicMock

    from geometry_msgs.msg import TwistStamped
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from robot_value.ros_nodes.teleop_node import Config, Teleop

    (tmp_path / "topics.yaml").write_text(TOPICS)
    (tmp_path / "arm.urdf").write_text(URDF)
    told = {"topics": str(tmp_path / "topics.yaml"), "source": "twist", "speed": 0.5}
    with pytest.raises(ValueError, match="kinematics: expected"):
        Teleop(MagicMock(), Config(**told)).configure()
    teleop = Teleop(MagicMock(), Config(**told, kinematics=str(tmp_path / "arm.urdf"), tool="tool"))
    teleop.configure()
    message = JointTrajectory(joint_names=["b", "a"], points=[JointTrajectoryPoint(positions=[1.5, 0.2])])
    message.header.frame_id, message.points[0].time_from_start.nanosec = wire.header(wire.About(*[1] * 6, "x")), 1
    teleop._on_executed(message)
    twist = TwistStamped()
    twist.twist.linear.y = 0.1
    a, b = 0.5 * teleop._twisted(twist).velocity  # rad/s
    moved = [-np.sin(0.2) * a - np.sin(1.7) * (a + b), np.cos(0.2) * a + np.cos(1.7) * (a + b)]
    assert np.allclose(moved, [0.0, 0.1], atol=2e-3)
