"""Cartesian velocities through the guard: limited like positions, one derivative further, and stopped to zero."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import wire
from robot_value.braking import Brakes, Motion
from robot_value.deploy.measured import Measured
from robot_value.deploy.plans import SECOND, Plans, Rules
from robot_value.deploy.teleoperation import Hand, Reach, Wish
from robot_value.guard import FAULT, HOLD, RUN, STOPPING, Guard
from robot_value.messages import extract
from robot_value.safety import Limits, speeds
from robot_value.topics import parse
from robot_value.types import ActionPart, Spec, SpecMismatch
from robot_value.yaml_keys import KeyMistake

DT, STEP = 0.02, 0.05  # s, the guard's period and a control step
V, A, J = ([x] * 3 + [y] * 3 for x, y in ((0.25, 1.0), (2.0, 5.0), (40.0, 100.0)))  # m/s.. and rad/s..
ARM = {"start": 0, "stop": 6, "kind": "pose", "reference": "current", "rotation": "axis_angle"}
GRIPPER = ActionPart("gripper", 6, 7, "gripper", "1", (0.0,), (1.0,))


def spec_of(unit="m/s+rad/s", low=-1.0, high=1.0, gripper=True, **other):
    arm = ActionPart("arm", unit=unit, low=(low,) * 6, high=(high,) * 6, **(ARM | other))
    return Spec((arm, GRIPPER) if gripper else (arm,), ("a",), ("rad",), STEP)


LIMITS = Limits.from_spec(spec_of(gripper=False), V, A, J)


def excess(path, dt=DT):
    """The independent oracle: worst of velocity, acceleration and jerk in units of their limits; begins at rest."""
    rows, worst = np.vstack([np.zeros((2, 6)), path]), np.abs(path / V).max()
    for most in (A, J):
        rows = np.diff(rows, axis=0) / dt
        worst = max(worst, np.abs(rows / most).max())
    return worst


def enabled(limits=LIMITS):
    guard = Guard(limits, DT)
    guard.tick(None, np.zeros(limits.low.size), 0.0)
    guard.enable(True)
    return guard


def driven(guard, wanted, steps):
    return np.array([guard.tick(wanted(i), np.zeros(6), 0.0).command for i in range(steps)])


def full(i):
    """Up to 0.2 m/s and 0.6 rad/s, and on at that."""
    return np.array([0.2] * 3 + [0.6] * 3) * min(1.0, 0.08 * (i + 1))


# -- what a number means -----------------------------------------------------------------------------------------------


# mutation: divide by dt where the unit says "/s"; swap m and rad.
@pytest.mark.parametrize(
    ("unit", "linear", "angular"),
    [("m/s+rad/s", 1.0, 1.0), ("m+rad", 20.0, 20.0), ("0.05 m+0.5 rad", 1.0, 10.0), ("0.1 m/s+rad", 0.1, 20.0)],
)
def test_increments_of_a_step_and_velocities_are_speeds_in_si(unit, linear, angular):
    np.testing.assert_allclose(speeds(spec_of(unit)), [linear] * 3 + [angular] * 3 + [1.0])


@pytest.mark.parametrize(
    "wrong",
    [{"unit": "1"}, {"unit": "rad+m"}, {"unit": "m"}, {"unit": "mm+rad"}, {"rotation": "quaternion"}],
)
def test_a_twist_whose_numbers_are_not_understood_is_refused(wrong):
    with pytest.raises(SpecMismatch, match=r"arm: expected 6 dims in m\+rad \(per step\) or m/s\+rad/s, rotation axis"):
        speeds(spec_of(**wrong))


def test_limits_are_si_whatever_the_spec_counts_in_and_poses_are_refused():
    # mutation: velocity not divided by the speed of the unit; the part's own low and high ignored
    limits = Limits.from_spec(spec_of("0.05 m+0.5 rad"), V, A, J)  # 1 is 1 m/s and 10 rad/s
    np.testing.assert_allclose(limits.high, [0.25] * 3 + [0.1] * 3 + [1.0])
    np.testing.assert_allclose(limits.low, [-0.25] * 3 + [-0.1] * 3 + [0.0])
    np.testing.assert_allclose(limits.velocity[:6], [2.0] * 3 + [0.5] * 3)
    np.testing.assert_allclose(limits.acceleration[:6], [40.0] * 3 + [10.0] * 3)
    assert limits.twist.tolist() == [True] * 6 + [False] and limits.rated.tolist() == [True] * 6 + [False]
    assert Limits.from_spec(spec_of(low=-0.1, high=0.05), V, A, J).high[0] == 0.05
    for reference in ("absolute", "chunk_start"):
        with pytest.raises(SpecMismatch, match=f"got {reference} pose"):
            Limits.from_spec(spec_of(reference=reference), V, A, J)
    with pytest.raises(ValueError, match="expected a twist that may be zero"):
        Limits.from_spec(spec_of(low=0.01), V, A, J)


# -- the core ----------------------------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(-2, 2), st.sampled_from([np.nan, np.inf, 1e30, -1e308]))
wishes = st.one_of(st.lists(numbers, min_size=6, max_size=6), st.sampled_from([None, [], "text"]))
asked = st.sampled_from(["", "", "", "", "enable", "disable", "fault", "reset", "stale"])


# mutation: Limits.from_spec without the step to one derivative further.
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(wishes, st.integers(1, 12), asked), max_size=12))
def test_no_published_twist_ever_leaves_the_limits_stops_included(stream):
    guard, path = enabled(), []
    ask = {"enable": lambda: guard.enable(True), "disable": lambda: guard.enable(False), "reset": guard.reset}
    for wanted, times, request in stream:
        ask.get(request, lambda: guard.fault("e") if request == "fault" else "")()  # noqa: B023
        for _ in range(times):
            path.append(guard.tick(wanted, np.zeros(6), 9.0 if request == "stale" else 0.0).command)
    if path:
        assert excess(np.array(path)) <= 1 + 1e-6


# mutation: Brakes.brake without the ramp: a stop that goes on for ever.
@pytest.mark.parametrize("why", ["plan", "state", "disabled", "fault"])
def test_whatever_runs_out_the_twist_ramps_to_zero_soon_and_stays_there(why):
    guard = enabled()
    path = list(driven(guard, full, 40))
    assert guard.state == RUN and (path[-1] == full(40)).all() and guard.clamps == 0
    if why in ("disabled", "fault"):
        guard.enable(False) if why == "disabled" else guard.fault("emergency stop")
    ticks = [
        guard.tick(None if why == "plan" else full(40), np.zeros(6), 9.0 if why == "state" else 0.0) for _ in range(40)
    ]
    path = np.array(path + [tick.command for tick in ticks])
    stop = path[39:]
    assert excess(path) <= 1 + 1e-6 and (np.diff(stop, axis=0) <= 1e-12).all() and (stop >= 0).all()
    moving = int((stop != 0).any(1).sum()) - 1
    ideal = max(0.2 / 2 + 2 / 40, 0.6 / 5 + 5 / 100)  # s, in continuous time
    assert ideal / DT - 2 <= moving <= ideal / DT + 3
    assert [tick.state for tick in ticks[: moving - 1]] == [STOPPING] * (moving - 1)
    assert ticks[-1].state == (FAULT if why == "fault" else HOLD) and not path[-1].any()


def test_a_constant_twist_is_no_rest():
    # mutation: Brakes.at_rest looks only at what changes
    brakes = Brakes(LIMITS, DT)
    path = [step.position for step in brakes.path(Motion.still(np.full(6, 0.2)))]
    assert len(path) > 5 and not path[-1].any() and (np.diff(path, axis=0) <= 0).all()


def test_a_direction_that_turns_at_once_is_followed_within_limits_and_reached_to_the_bit():
    # mutation: Brakes.toward without the target's frame
    guard = enabled()
    path = driven(guard, lambda i: full(99) * (1 if i < 50 else -1), 100)
    assert excess(path) <= 1 + 1e-6 and (path[-1] == -full(99)).all() and guard.state == RUN
    assert (path.max(0) <= full(99) + 1e-9).all() and (path.min(0) >= -full(99) - 1e-9).all()


def test_too_much_speed_is_clamped_to_the_limit_and_a_stop_that_takes_too_long_is_refused():
    # mutation: low and high of from_spec without the velocity
    guard = enabled()
    path = driven(guard, lambda i: np.full(6, 5.0), 20)
    np.testing.assert_allclose(path[-1], V)
    assert guard.state == RUN and guard.reason == "catching up with the plan"
    with pytest.raises(ValueError, match=r"a stop from full velocity within 1.0 s, got 1.0"):
        Brakes(Limits.from_spec(spec_of(), [1.0] * 6, [1.2] * 6, [6.0] * 6), DT)


def test_where_the_arm_is_and_follows_is_not_asked_of_a_twist():
    # mutation: Guard._gap over all rated dims
    guard = enabled()
    for i in range(60):
        tick = guard.tick(full(i), np.full(6, 0.9), 0.0)
    assert tick.state == RUN and (tick.command == full(60)).all()


# mutation: Plans._absurd counts the change of a twist as a speed.
def test_a_plan_may_begin_at_full_speed_and_is_refused_far_beyond_it():
    queue = Plans(Rules("x", max_age=1.0), LIMITS)

    def plan(seq, speed):
        about = wire.About(seq, 1, 0, 0, SECOND, SECOND, "x")
        return wire.Plan(about, np.full((4, 6), speed), None, STEP)

    assert queue.offer(plan(1, 0.5), SECOND, Motion.still(np.zeros(6))) == ""  # twice the linear limit
    assert queue.offer(plan(2, -0.8), SECOND).startswith("speed: expected at most 3 times the twist's limit, got 3.2")


TOPICS = {
    "rate": 20.0,
    "max_skew": 0.05,
    "state": [
        {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "joints": ["a"], "unit": "rad", "max_age": 0.1}
    ],
    "action": [
        {
            "name": "arm",
            "topic": "/servo_node/delta_twist_cmds",
            "type": "geometry_msgs/msg/TwistStamped",
            "names": ["vx", "vy", "vz", "wx", "wy", "wz"],
            "kind": "pose",
            "reference": "current",
            "rotation": "axis_angle",
            "unit": ["m/s"] * 3 + ["rad/s"] * 3,
            "low": -1.0,
            "high": 1.0,
            "frame": "panda_link0",
            "max_age": 0.2,
        }
    ],
    "cameras": [],
}


# mutation: in messages leave `speeds` out; count a twist as an increment.
def test_a_recorded_twist_reads_as_the_specs_numbers_and_holds_until_the_next_one():
    from types import SimpleNamespace

    action = {**TOPICS["action"][0], "unit": ["0.05 m"] * 3 + ["0.5 rad"] * 3}
    (entry,) = parse({**TOPICS, "action": [action]}).action
    assert not entry.counted
    linear, angular = SimpleNamespace(x=0.2, y=0.0, z=-1.0), SimpleNamespace(x=5.0, y=0.0, z=0.0)
    message = SimpleNamespace(twist=SimpleNamespace(linear=linear, angular=angular))
    np.testing.assert_allclose(extract(entry, message), [0.2, 0, -1, 0.5, 0, 0], rtol=1e-6)
    with pytest.raises(KeyMistake, match=r"expected 6 dims in m\+rad"):
        parse({**TOPICS, "action": [{**action, "unit": "1"}]})


def test_the_measured_joints_must_be_heard_though_no_twist_speaks_of_them():
    # mutation: in Measured take only what actions name: never stale
    from types import SimpleNamespace

    topics = parse(TOPICS)
    assert topics.spec.parts[0].unit == "m/s+rad/s"
    measured = Measured(topics, Limits.from_spec(topics.spec, V, A, J))
    assert measured.age(0) == np.inf and measured.positions is None
    measured.put("/joint_states", SimpleNamespace(name=["a"], position=[0.4]), SECOND, jumps=False)
    assert measured.age(SECOND + SECOND // 4) == 0.25 and not measured.positions.any()
    with pytest.raises(ValueError, match="state: expected a topic with the arm's measured positions"):
        Measured(parse({**TOPICS, "state": [], "cameras": [CAMERA]}), LIMITS)


CAMERA = {"name": "c", "topic": "/c", "type": "sensor_msgs/msg/Image", "height": 8, "width": 8, "encoding": "rgb8"}
CAMERA |= {"max_age": 0.1}


# -- a human's hand ----------------------------------------------------------------------------------------------------


def test_a_hand_drives_a_twist_through_the_guard_without_a_jump_at_either_end():
    # mutation: Hand.take at zero; Hand.advance integrates a twist
    reach = Reach.from_spec(spec_of("0.05 m+0.5 rad", gripper=False), speed=0.2, gripper_speed=1.0, ramp=0.25)
    np.testing.assert_allclose(reach.speed, [0.2] * 3 + [0.02] * 3)  # 1 is 1 m/s and 10 rad/s
    limits = Limits.from_spec(spec_of("0.05 m+0.5 rad", gripper=False), V, A, J)
    hand, guard = Hand(reach, DT, 3), enabled(limits)
    started = driven(guard, lambda i: np.full(6, 0.01), 20)
    hand.take(started[-1])
    path = list(started)
    for i in range(60):
        wish = Wish(True, np.array([1.0, -1.0, 0.0, 0.5, 0.0, 0.0]) * (i < 40))
        actions, slopes = hand.advance(wish, path[-1])
        assert (actions == actions[0]).all() and not slopes.any() and np.abs(actions / reach.speed).max() <= 1 + 1e-9
        path.append(guard.tick(actions[0], np.zeros(6), 0.0).command)
    assert (path[50] == [0.2, -0.2, 0, 0.01, 0, 0]).all() and not np.any(path[-1]) and guard.state == RUN
    assert excess(np.array(path) * speeds(spec_of("0.05 m+0.5 rad", gripper=False))) <= 1 + 1e-6


def test_a_twist_of_the_hand_is_that_of_the_arm_without_a_model_of_it(tmp_path):
    # mutation: not divided by the unit's speed; angular left out
    pytest.importorskip("rclpy")
    from unittest.mock import MagicMock

    import yaml
    from geometry_msgs.msg import TwistStamped

    from robot_value.ros_nodes.teleop_node import Config, Teleop

    (tmp_path / "topics.yaml").write_text(yaml.safe_dump(TOPICS))
    told = {"topics": str(tmp_path / "topics.yaml"), "speed": 0.5}
    teleop = Teleop(MagicMock(), Config(**told, source="twist"))
    teleop.configure()
    twist = TwistStamped()
    twist.twist.linear.y, twist.twist.angular.z = 0.1, -0.3
    assert np.allclose(0.5 * teleop._twisted(twist).velocity, [0, 0.1, 0, 0, 0, -0.3])
    with pytest.raises(ValueError, match="expected joystick, keyboard or twist"):
        Teleop(MagicMock(), Config(**told, source="trajectory")).configure()


# -- the guard node, before a stand-in for MoveIt Servo ----------------------------------------------------------------


# mutation: Outputs without the unit's speed; no stamp; no frame; GuardNode.deactivate without waiting for rest.
@pytest.mark.flaky(reruns=1, reruns_delay=2)  # a real clock
def test_the_guard_sends_servo_limited_stamped_twists_and_zero_before_it_falls_silent(tmp_path):
    pytest.importorskip("rclpy")
    import yaml
    from geometry_msgs.msg import TwistStamped
    from rclpy.duration import Duration
    from ros_graph import Graph
    from sensor_msgs.msg import JointState
    from std_srvs.srv import SetBool
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from robot_value.ros_nodes.managed import COMMAND, RECORD, SENSOR

    action = {
        **TOPICS["action"][0],
        "unit": ["0.05 m"] * 3 + ["0.5 rad"] * 3,
    }  # as robosuite's OSC: 1 is 1 m/s, 10 rad/s
    topics = {**TOPICS, "action": [action]}
    (tmp_path / "topics.yaml").write_text(yaml.safe_dump(topics))
    names, schema = action["names"], wire.schema(parse(topics).spec)
    with Graph(tmp_path) as graph:
        servo = graph.listen(TwistStamped, "/servo_node/delta_twist_cmds", RECORD)
        executed = graph.listen(JointTrajectory, "executed", RECORD)
        states, plans = (
            graph.publisher(JointState, "/joint_states", SENSOR),
            graph.publisher(JointTrajectory, "plan", COMMAND),
        )
        graph.probe.create_timer(0.01, lambda: states.publish(JointState(name=["a"], position=[0.4])))
        limits = {"velocity": V, "acceleration": A, "jerk": J, "max_state_age": 0.3, "twist_frame": "base_link"}
        guard = graph.start("guard_node", {"topics": str(tmp_path / "topics.yaml"), **limits})
        graph.wait_state(guard, "active")
        graph.wait_for_subscriber(plans)
        _, first = servo.wait()
        assert not as_numbers(first).any() and first.header.frame_id == "base_link"
        assert abs(first.header.stamp.sec - time.time()) < 2
        assert graph.call(SetBool, "guard/enable", SetBool.Request(data=True)).success

        def plan(seq):
            now = time.monotonic_ns()
            message = JointTrajectory(joint_names=names)
            message.header.frame_id = wire.header(wire.About(seq, 1, 0, 0, now, now, schema))
            for i in range(20):
                row = [0.2, 0.0, -0.1, 0.0, 0.06, 0.0]
                due = Duration(seconds=(i + 1) * STEP).to_msg()
                message.points.append(JointTrajectoryPoint(positions=row, time_from_start=due))
            plans.publish(message)

        plan(1)
        began, _ = servo.wait(lambda m: np.allclose(as_numbers(m), [0.2, 0, -0.1, 0, 0.6, 0]))
        stopped, _ = servo.wait(lambda m: not as_numbers(m).any(), began)  # the plan is over
        plan(2)
        servo.wait(lambda m: np.allclose(as_numbers(m), [0.2, 0, -0.1, 0, 0.6, 0]), stopped)
        assert graph.change("guard", "deactivate")
        time.sleep(0.2)
        path = np.array([as_numbers(m) for _, m in servo.messages])
        seqs = [wire.parse_header(m.header.frame_id).seq for _, m in executed.messages]
        told = np.array([m.points[0].positions for _, m in executed.messages])
    assert not path[-1].any() and excess(path) <= 1 + 1e-6
    if len(told) == len(path):  # both heard from the first one on
        np.testing.assert_allclose(told * ([1.0] * 3 + [10.0] * 3), path, atol=1e-12)
    assert (np.diff(seqs) == 1).all()


def as_numbers(message):
    return np.array([getattr(getattr(message.twist, v), x) for v in ("linear", "angular") for x in "xyz"])
