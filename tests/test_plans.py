"""Plans: which are accepted, where they say the arm is, taking over without a jump; lock-step; the measured state."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_value.braking import Motion
from robot_value.deploy.lockstep import LockStep, action
from robot_value.deploy.measured import Measured
from robot_value.deploy.plans import SECOND, Plans, Rules
from robot_value.safety import UNLIMITED, Limits
from robot_value.topics import parse
from robot_value.wire import HUMAN, About, Plan

DT, T = 0.1, 0.02  # s per step of a plan, period of the guard
LIMITS = Limits([-2.0, -2.0], [2.0, 2.0], [1.0, 1.0], [5.0, 5.0], [100.0, 100.0])
STILL = Motion.still(np.zeros(2))
NOW = 1000 * SECOND


def plan(actions=((0.01, 0.0), (0.02, 0.0), (0.03, 0.0)), velocities=None, **about):
    said = {"seq": 1, "episode": 3, "step": 40, "start": 0, "observed": NOW, "created": NOW, "schema": "x"}
    actions = np.array(actions, np.float64)
    return Plan(About(**(said | about)), actions, velocities if velocities is None else np.array(velocities), DT)


def plans(**rules):
    return Plans(Rules("x", **rules), LIMITS)


def at(queue, seconds, motion=STILL):
    """Asked once per period, as the guard does, for the period that ends at NOW + seconds."""
    return queue.at(NOW + round(seconds * SECOND), motion, T)


# mutation: in Course.at `self.times[after] == time` -> never: off by rounding.
@given(st.lists(st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)), min_size=1, max_size=12), st.booleans())
def test_a_plan_is_met_exactly_at_its_points_and_lies_between_them_elsewhere(rows, curved):
    queue, rows = plans(), np.array(rows)
    assert queue.offer(plan(rows, np.zeros_like(rows) if curved else None), NOW) == ""
    path = np.vstack([[0, 0], rows])
    for tick in range(1, 5 * len(rows) + 1):
        position, course = at(queue, tick * T)
        step = (tick - 1) // 5
        low, high = np.minimum(path[step], path[step + 1]), np.maximum(path[step], path[step + 1])
        assert (position >= low - 1e-12).all() and (position <= high + 1e-12).all()  # at rest at points
        assert course.step(NOW + round(tick * T * SECOND)) == 40 + step
        if tick % 5 == 0:
            assert (position == rows[step]).all()
    assert at(queue, len(rows) * DT + T) is None


def test_the_curve_between_points_is_the_cubic_with_the_given_velocities():
    # mutation: swap m0 and m1
    def truth(t):
        return np.array([0.1 * t**3 - 0.02 * t, 0.05 * t**2])

    def slope(t):
        return np.array([0.3 * t**2 - 0.02, 0.1 * t])

    times = np.arange(1, 5) * DT
    queue = plans()
    start = Motion(truth(0), slope(0), np.zeros(2))
    assert queue.offer(plan([truth(t) for t in times], [slope(t) for t in times]), NOW) == ""
    for tick in range(1, 21):
        np.testing.assert_allclose(at(queue, tick * T, start)[0], truth(tick * T), atol=1e-12)


# mutation: in Plans._take_over `before = None` -> a jump back to the command's place.
def test_a_plan_takes_over_at_its_start_from_where_the_one_before_it_is_then():
    queue = plans()
    queue.offer(plan([[0.01 * i, 0] for i in range(1, 11)]), NOW)
    at(queue, T)
    start = NOW + round(0.35 * SECOND)
    assert queue.offer(plan([[0.1, 0.1]] * 4, seq=2, start=start, created=NOW + 1), NOW) == ""
    assert at(queue, 0.34)[0] == pytest.approx([0.034, 0.0])  # still the first one
    position, course = at(queue, 0.36)
    np.testing.assert_allclose(position, np.array([0.035, 0.0]) + 0.1 * np.array([0.065, 0.1]))
    assert course.about.seq == 2 and course.start == start


# mutation: in Plans._take_over keep all times -> starts with an action that is over.
def test_steps_that_are_over_when_a_plan_comes_are_left_out():
    queue = plans()
    late = NOW - round(0.25 * SECOND)
    assert queue.offer(plan([[9e-3, 0], [9e-3, 0], [0.03, 0], [0.04, 0]], start=late), NOW) == ""
    position, course = at(queue, T)
    assert position == pytest.approx([0.03 * 0.02 / 0.05, 0])  # third action, due in 0.05 s
    assert course.step(NOW + 1) == 42 and at(queue, 0.05)[0].tolist() == [0.03, 0]


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"schema": "y"}, "schema: expected x, got y"),
        ({"source": HUMAN}, "source: expected policy, got human"),
        ({"created": NOW - 6 * SECOND // 10}, "created: expected an age of 0 to 0.5 s, got 0.600 s"),
        ({"created": NOW + SECOND // 10}, "created: expected an age of 0 to 0.5 s, got -0.100 s"),
        ({"observed": NOW - SECOND}, "observed: expected an age of 0 to 0.5 s, got 1.000 s"),
        ({"start": NOW - SECOND}, "start: expected an end in the future, got one 0.700 s ago"),
        ({"start": NOW + 2 * SECOND}, "horizon: expected an end within 2.0 s, got 2.300 s"),
    ],
)
def test_a_plan_that_is_old_or_of_somebody_else_is_refused_with_the_reason(about, reason):
    queue = plans()
    assert queue.offer(plan(**about), NOW).startswith(reason)
    assert at(queue, T) is None and queue.refused == {reason.split(":")[0]: 1}


# mutation: in Plans._absurd leave out the way from the command to the first action.
def test_a_plan_in_other_units_or_far_from_the_arm_is_refused_whole():
    queue = plans()
    assert queue.offer(plan([[0.0, 0.0], [0.5, 0.0]]), NOW, STILL).startswith("speed: expected at most 3 times")
    assert "5 times for dim 1" in queue.offer(plan([[0.0, 0.5]] * 3), NOW, STILL)
    assert queue.offer(plan([[4.1, 0.0]] * 3), NOW).startswith("position: expected targets within limits, got dim 0")
    assert queue.offer(plan([[0.25, 0.0], [0.5, 0.0]]), NOW, STILL) == ""  # merely too fast: the guard clamps it


# mutation: in Plans._why_not compare seq only -> a restarted sender is never heard again.
def test_duplicates_and_older_plans_are_dropped_and_a_restarted_sender_is_heard():
    queue = plans()
    assert queue.offer(plan(seq=7), NOW) == ""
    assert queue.offer(plan(seq=7), NOW).startswith("seq: expected more than 7")
    assert queue.offer(plan(seq=6, created=NOW - 1), NOW).startswith("seq")
    assert queue.offer(plan(seq=1, created=NOW + 1), NOW) == ""


# mutation: in Plans.intervene do not clear -> the policy's plan goes on under the human.
def test_the_human_owns_the_arm_between_taking_and_giving_back():
    queue = plans()
    queue.offer(plan(), NOW)
    assert at(queue, T) is not None
    queue.intervene(True, NOW)
    assert at(queue, T) is None
    assert queue.offer(plan(seq=2), NOW).startswith("source: expected human, got policy")
    assert queue.offer(plan([[0.0, 0.01]], source=HUMAN), NOW) == ""
    assert at(queue, DT)[0].tolist() == [0.0, 0.01] and at(queue, DT)[1].about.source == HUMAN
    queue.intervene(False, NOW + 10)
    assert at(queue, DT) is None
    assert queue.offer(plan(seq=3, observed=NOW + 5), NOW + 20).startswith("observed: expected inputs from after")
    assert queue.offer(plan(seq=4, observed=NOW + 15), NOW + 20) == ""


# -- lock-step ---------------------------------------------------------------------------------------------------------


def test_lock_step_answers_every_state_once_whatever_comes_first():
    # mutation: in LockStep.next do not remember what was answered
    first, second = LockStep("x", ["/a", "/b"]), LockStep("x", ["/a", "/b"])
    eight = plan([[i, 0] for i in range(8)], step=0, episode=5)
    first.offer(eight)
    first.state("/a", "5:0")
    assert first.next() is None  # /b is still before it
    first.state("/b", "5:0")
    for topic in ("/a", "/b"):
        second.state(topic, "5:0")
    assert second.next() is None
    second.offer(eight)
    for lockstep in (first, second):
        for step in range(8):
            episode, now, found = lockstep.next()
            assert (episode, now, action(found, now)[0]) == (5, step, step) and lockstep.next() is None
            for topic in ("/a", "/b"):
                lockstep.state(topic, f"5:{step + 1}")
        assert lockstep.next() is None  # no plan covers step 8
    with pytest.raises(ValueError, match="expected a frame_id <episode>:<step>"):
        first.state("/a", "camera")


def test_in_lock_step_the_human_wins_its_steps_and_the_newest_plan_the_others():
    # mutation: drop the source from the key of max
    lockstep = LockStep("x", ["/a"])
    lockstep.offer(plan([[2, 0]] * 2, step=3, seq=1, source=HUMAN))
    for seq in (1, 2):
        lockstep.offer(plan([[seq / 10, 0]] * 8, step=0, seq=seq))
    got = []
    for step in range(8):
        lockstep.state("/a", f"3:{step}")
        got.append(action(lockstep.next()[2], step)[0])
    assert got == [0.2, 0.2, 0.2, 2, 2, 0.2, 0.2, 0.2]
    lockstep.intervene(True, NOW + 5)
    assert lockstep.offer(plan(step=8, seq=3)).startswith("source")
    lockstep.intervene(False, NOW + 6)
    assert lockstep.offer(plan(step=8, seq=4)).startswith("source")  # observed before the release
    assert lockstep.offer(plan(step=8, seq=5, observed=NOW + 7)) == ""


# -- the measured state ------------------------------------------------------------------------------------------------

JOINTS = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "max_age": 0.05}
TOPICS = parse(
    {
        "rate": 10,
        "max_skew": 0.05,
        "state": [
            {**JOINTS, "joints": ["a", "b"], "names": ["qa", "qb"], "unit": "rad"},
            {**JOINTS, "joints": ["a", "b"], "names": ["va", "vb"], "path": "velocity", "unit": "rad/s"},
        ],
        "action": [
            {
                "name": "arm",
                "topic": "/arm/joint_trajectory",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "joints": ["b", "a"],
                "kind": "joint",
                "unit": "rad",
                "low": -2,
                "high": 2,
                "max_age": 0.2,
            }
        ],
        "cameras": [],
    }
)


def joint_state(positions, names=("a", "b")):
    return SimpleNamespace(name=list(names), position=list(positions), velocity=[9.0] * len(names), header=None)


def test_the_measured_state_is_in_the_order_of_the_action_dims_with_its_age_from_when_it_came():
    # mutation: in measured._positions return topics.state -> velocities
    measured = Measured(TOPICS, LIMITS)
    assert measured.positions is None and measured.age(NOW) == np.inf
    assert measured.put("/joint_states", joint_state([0.5, -0.25]), NOW, jumps=False) is None
    assert measured.positions.tolist() == [-0.25, 0.5] and measured.age(NOW + SECOND // 4) == 0.25
    for max_age in (0.01, 0.05, 0.07, 0.29, 1.1, 10.0):  # the first moment that is too old, to the nanosecond or two
        until = measured.valid_until(max_age)
        assert measured.age(until - 3) <= max_age < measured.age(until)
    assert measured.put("/joint_states", joint_state([7, -0.25, 0.5], "xba"), NOW, jumps=False) is None
    assert measured.positions.tolist() == [-0.25, 0.5]


@pytest.mark.parametrize(
    ("message", "latches"),
    [
        (joint_state([np.nan, 0]), True),
        (joint_state([1e30, 0]), True),
        (joint_state([1.5, 0]), True),  # within 10 ms
        (joint_state([0, 0], "ax"), False),
        (joint_state([0, 0, 0], "aab"), False),
        (joint_state([0], "ab"), False),
        (joint_state([0, 0], ["a", "infinite"]), False),
    ],
)
def test_a_state_that_cannot_be_is_refused_and_only_nonsense_of_the_driver_latches(message, latches):
    # mutation: never look for jumps
    measured = Measured(TOPICS, LIMITS)
    measured.put("/joint_states", joint_state([0, 0]), NOW, jumps=False)
    problem = measured.put("/joint_states", message, NOW + SECOND // 100, jumps=False)
    assert problem and problem.latches == latches and measured.refused == 1
    assert measured.positions.tolist() == [0, 0] and measured.age(NOW + SECOND // 100) == 0.01


def test_a_jump_is_fine_where_a_scene_may_be_reset():
    measured = Measured(TOPICS, LIMITS)
    measured.put("/joint_states", joint_state([0, 0]), NOW, jumps=True)
    assert measured.put("/joint_states", joint_state([1.5, 0]), NOW + 1, jumps=True) is None


# mutation: compare with the receive time; look at stamps without a clock; count a stamp of zero.
def test_stamps_from_the_future_or_from_long_ago_are_told_and_decide_nothing():
    measured, wall = Measured(TOPICS, LIMITS), 1_700_000_000 * SECOND

    def put(seconds_old, now, told=wall):
        sec, nanosec = divmod(wall - round(seconds_old * SECOND), SECOND)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
        message = SimpleNamespace(**vars(joint_state([0.5, -0.25])) | {"header": header})
        assert measured.put("/joint_states", message, now, jumps=False, wall=told) is None
        assert measured.age(now) == 0
        return measured.odd_stamps

    assert put(0.01, NOW) == put(0.49, NOW + 1) == put(-0.04, NOW + 2) == ""
    assert put(2.5, NOW + 3) == "/joint_states: stamped 2.5 s ago; do all computers' clocks agree?"
    assert put(-60, NOW + 4).startswith("/joint_states: stamped 60 s in the future; ")
    assert put(0.0, NOW + 5) == ""
    assert put(0.0, NOW + 6, told=0) == put(wall / SECOND, NOW + 7) == ""  # no clock, no stamp


def two_arms(**gripper):
    """Both arms' joints in one message, an entry each; the gripper is measured beside the right one."""
    right = {**JOINTS, "joints": ["c", "grip"], "names": ["qc", "qgrip"], "unit": ["rad", gripper.pop("unit", "m")]}
    sides = [{**JOINTS, "joints": ["a", "b"], "names": ["qa", "qb"], "unit": "rad"}, right]
    to = {"topic": "/left", "type": "trajectory_msgs/msg/JointTrajectory", "kind": "joint", "unit": "rad"}
    to |= {"low": -2, "high": 2, "max_age": 0.2}
    hand = {"name": "hand", "topic": "/hand", "type": "std_msgs/msg/Float64MultiArray", "names": ["grip"], "unit": "m"}
    hand |= {"kind": "gripper", "low": 0.01, "high": 0.04, "max_age": 0.2}
    left = {"name": "left", **to, "joints": ["b", "a"]}
    actions = [left, {"name": "right", **to, "topic": "/right", "joints": ["c"]}, hand]
    return parse({"rate": 10, "max_skew": 0.05, "state": sides, "action": actions, "cameras": []})


# mutation: key entries by their topic -> the left arm is where the right one is; store the first entry before the
# second is checked; listen to grippers in another unit.
@pytest.mark.parametrize(("unit", "gripper"), [("m", 0.03), ("rad", 0.01)])
def test_several_entries_of_one_topic_are_read_each_and_a_gripper_beside_them_in_the_actions_unit(unit, gripper):
    topics = two_arms(unit=unit)
    measured = Measured(topics, Limits.from_spec(topics.spec, [1.0], [5.0], [100.0]))
    assert measured.topics == {"/joint_states": "sensor_msgs/msg/JointState"}
    names = ("c", "a", "grip", "b")
    assert measured.put("/joint_states", joint_state([0.3, 0.1, 0.03, 0.2], names), NOW, jumps=False) is None
    assert measured.positions == pytest.approx([0.2, 0.1, 0.3, gripper])
    for wrong in ([np.nan, 0.1, 0.03, 0.2], [1.9, 0.1, 0.03, 0.2]):
        later = joint_state([wrong[0], 0.101, *wrong[2:]], names)
        assert measured.put("/joint_states", later, NOW + SECOND // 100, jumps=False).latches
        assert measured.positions == pytest.approx([0.2, 0.1, 0.3, gripper]) and measured.age(NOW) == 0
    assert measured.put("/joint_states", joint_state([0.3, 0.1, 0.03], names[:3]), NOW + 1, jumps=False) is not None


# mutation: in Plans._take_over leave out `unsent`.
def test_a_gripper_that_was_told_nothing_does_not_come_from_where_the_guard_believes_it():
    rates = ([rate, UNLIMITED[name]] for name, rate in (("velocity", 1.0), ("acceleration", 5.0), ("jerk", 100.0)))
    limits = Limits([-2.0, 0.0], [2.0, 1.0], *rates)
    for unsent, gripper in ((True, 0.8), (False, 0.16)):
        queue = Plans(Rules("x"), limits)
        assert queue.offer(plan([[0.01, 0.8], [0.02, 0.8]]), NOW) == ""
        position, _ = queue.at(NOW + round(T * SECOND), STILL, T, unsent)
        assert position == pytest.approx([0.002, gripper])


def test_a_joint_that_nobody_measures_is_named():
    other = parse_without_b()
    with pytest.raises(ValueError, match=r"expected the joints of action arm among \['a'\], got no \['b'\]"):
        Measured(other, LIMITS)


def parse_without_b():
    only = replace(TOPICS.state[0], joints=("a",), names=("qa",), units=("rad",))
    return replace(TOPICS, state=(only,))
