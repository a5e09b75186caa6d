"""The guard's core: nothing outside the limits is ever published, whatever comes in; faults latch."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.guard import FAULT, HOLD, RUN, STOPPING, Guard
from robot_value.safety import Limits, check, reach, window
from robot_value.types import ActionPart, Spec, SpecMismatch

DT = 0.02
LIMITS = Limits(low=[-1.0, -2.0], high=[1.0, 0.5], velocity=[1.0, 2.0], acceleration=[10.0, 5.0])
START = np.array([0.1, -0.2])


def violations(commands, limits=LIMITS, dt=DT):
    """The independent oracle: largest excess over position, velocity and acceleration limits, starting at rest."""
    path = np.vstack([commands[:1], commands])
    speed = np.diff(path, axis=0) / dt
    change = np.diff(np.vstack([np.zeros_like(speed[:1]), speed]), axis=0) / dt
    excess = [
        limits.low - path,
        path - limits.high,
        np.abs(speed) - limits.velocity,
        np.abs(change) - limits.acceleration,
    ]
    assert np.isfinite(path).all()
    return max(float(e.max()) for e in excess)


def running(limits=LIMITS, start=START):
    guard = Guard(limits, DT)
    guard.tick(start, start, 0.0)
    assert guard.run() == ""
    return guard


def driven(guard, wanted, steps):
    """Commands published while the arm follows exactly and `wanted(i)` is asked for."""
    published = [guard.tick(guard_command(guard), guard_command(guard), 0.0).command]
    for i in range(steps):
        published.append(guard.tick(wanted(i), published[-1], 0.0).command)
    return np.array(published)


def guard_command(guard):
    return START if guard._command is None else guard._command


def at(*offset):
    return START + np.array(offset)


def moving_away(i):
    """Joint 0 speeds up to 0.4 rad/s."""
    return at(DT * sum(min(0.1 * k, 0.4) for k in range(i + 1)), 0.0)


numbers = st.one_of(
    st.floats(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e308, 5e-324]),
)
vectors = st.one_of(
    st.lists(numbers, min_size=2, max_size=2),
    st.lists(st.floats(-0.02, 0.02), min_size=2, max_size=2).map(lambda d: (START + d).tolist()),
    st.sampled_from([None, [], [0.0], [0.0] * 3, [[0.0, 0.0]], "text", ["a", "b"], [None, 0.0], {}, [10**400, 0]]),
)
ages = st.one_of(st.floats(0, 0.06), st.sampled_from([np.nan, np.inf, -1.0, None, "old", 1e9]))
requests = st.sampled_from(["", "", "", "", "run", "hold", "fault", "reset"])
# An event: what is asked for relative to the last published command, or garbage; what was measured; age; a request.
near = st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=2)
events = st.tuples(st.one_of(near.map(np.array), vectors), st.one_of(near.map(np.array), vectors), ages, requests)


# mutation: in safety.window drop `np.minimum(fastest, velocity + change)` -> acceleration limit broken, this fails.
# mutation: in safety.vector drop the `<= ABSURD` test -> NaN is published, this fails.
@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.lists(events, max_size=60))
def test_no_published_command_ever_leaves_the_limits_whatever_comes_in(known, stream):
    guard, published = Guard(LIMITS, DT), []
    if known:
        guard.tick(START, START, 0.0)
    for command, measured, age, request in stream:
        {"": str, "run": guard.run, "hold": guard.hold, "reset": guard.reset, "fault": lambda: guard.fault("e")}[
            request
        ]()
        base = guard_command(guard)
        command = base + command if isinstance(command, np.ndarray) else command
        measured = base + measured if isinstance(measured, np.ndarray) else measured
        tick = guard.tick(command, measured, age)
        published += [] if tick.command is None else [tick.command]
    if published:
        assert violations(np.array(published)) < 1e-7


# mutation: in safety.reach replace `- a * dt / 2` by `` -> the arm cannot brake before its limit, this fails.
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20), st.floats(0.1, 50), st.sampled_from([0.002, 0.02, 0.1]))
def test_a_wild_policy_is_followed_to_the_limit_and_braked_inside_it(seed, velocity, acceleration, dt):
    limits = Limits([-1.0], [1.0], [velocity], [acceleration])
    rng = np.random.default_rng(seed)
    position, speed, path = np.zeros(1), np.zeros(1), [np.zeros(1)]
    for _ in range(120):
        slowest, fastest = window(position, speed, dt, limits)
        assert (slowest <= fastest + 1e-9).all()
        wanted = position + (slowest + rng.choice([0.0, 1.0, rng.random()]) * (fastest - slowest)) * dt
        verdict = check(wanted, position, speed, position, 0.0, dt, limits)
        assert verdict.ok, verdict.reason
        speed, position = (verdict.command - position) / dt, verdict.command
        path.append(position)
    assert violations(np.array(path), limits, dt) < 1e-6


# mutation: in safety.reach replace `distance / dt` by `distance` -> slower than allowed, this fails.
def test_reach_is_the_fastest_step_from_which_braking_ends_within_the_distance():
    for distance in (0.001, 0.01, 0.3, 2.0):
        fast = reach(np.array([distance, distance]), DT, LIMITS)
        for v, a in zip(fast, LIMITS.acceleration, strict=True):
            steps = v - a * DT * np.arange(1 + int(v / (a * DT)))  # brute force: brake as hard as allowed
            assert steps.sum() * DT <= distance + 1e-12
            assert (steps.sum() * DT) > distance - a * DT**2  # less than one quantum is wasted


def test_a_good_command_is_published_as_it_is():
    wanted = at(0.001, -0.001)
    verdict = check(wanted, START, np.zeros(2), START, 0.01, DT, LIMITS)
    assert verdict.ok and verdict.reason == ""
    np.testing.assert_allclose(verdict.command, wanted, atol=1e-15)


@pytest.mark.parametrize(
    ("command", "measured", "age", "reason"),
    [
        ([np.nan, 0], START, 0.0, "command: expected 2 finite numbers"),
        ([0, 0, 0], START, 0.0, "command: expected 2 finite numbers"),
        (START, [np.inf, 0], 0.0, "measured state: expected 2 finite numbers"),
        (START, START, 0.06, "inputs: expected an age of 0 to 0.05 s, got 0.06"),
        (START, START, -0.01, "inputs: expected an age"),
        (START, START, np.nan, "inputs: expected an age"),
        ([1.2, -0.2], START, 0.0, "joint 0 position: expected -1.0 to 1.0, got 1.2"),
        (at(0.0, 0.05), START, 0.0, "joint 1 velocity: expected at most 2.0, got 2.5"),
        (at(0.0, 0.01), START, 0.0, "joint 1 acceleration: expected at most 5.0, got 25"),
    ],
)
def test_a_bad_input_is_answered_with_a_braking_step_and_the_reason(command, measured, age, reason):
    moving = np.array([0.5, 0.0])
    verdict = check(command, START, moving if "position" not in reason else np.zeros(2), measured, age, DT, LIMITS)
    if "joint" in reason:
        verdict = check(command, START, np.zeros(2), measured, age, DT, LIMITS)
        np.testing.assert_allclose(verdict.command, START)
    else:
        np.testing.assert_allclose(verdict.command, at((0.5 - 10 * DT) * DT, 0.0))  # 0.5 m/s less a·dt
    assert not verdict.ok and verdict.reason.startswith(reason)


def test_a_command_that_could_not_brake_before_its_position_limit_is_named_so():
    verdict = check([0.995, 0], np.array([0.98, 0]), np.array([0.7, 0.0]), [0.98, 0], 0.0, DT, LIMITS)
    assert verdict.reason == "joint 0: too fast to brake before its position limit, got velocity 0.75"


def test_float32_rounding_at_a_limit_is_not_a_violation():
    edge = np.float32([0.9999999, -0.2]) + np.float32([2e-7, 0])
    verdict = check(edge, np.array([1.0, -0.2]), np.zeros(2), START, 0.0, DT, LIMITS)
    assert verdict.ok and verdict.command[0] <= 1.0


def test_the_guard_publishes_nothing_until_it_knows_where_the_arm_is():
    guard = Guard(LIMITS, DT)
    assert guard.tick(START, None, 0.0).command is None
    assert guard.tick(START, START, 1.0).command is None
    assert guard.run() == "no valid measured state yet"
    tick = guard.tick(START, [1.5, 0.0], 0.0)
    assert tick.command is None and tick.reason == "joint 0 is outside its position limits; move the arm back"
    assert "outside" in guard.run()
    np.testing.assert_array_equal(guard.tick(None, START, 0.0).command, START)
    assert guard.state == HOLD


# mutation: in Guard.run drop `if not self._unready` -> a far command starts motion, this fails.
def test_motion_begins_only_with_fresh_inputs_and_a_command_near_the_arm():
    guard = Guard(LIMITS, DT)
    guard.tick(START + 0.2, START, 0.0)
    assert guard.run().startswith("joint ") and "0.2 away" in guard.run()
    guard.tick(START, START, 0.2)
    assert "age" in guard.run()
    guard.tick(START, START, 0.0)
    assert guard.run() == "" and guard.state == RUN
    assert guard.run().startswith("expected state HOLD, got RUN")


# mutation: in Guard._blend pass drift 0 instead of (wanted - before) / dt -> never catches up, this fails.
def test_a_started_motion_catches_up_with_a_moving_command_and_then_follows_it_exactly():
    guard = running()
    for i in range(40):
        wanted = (at(0.02 + 0.3 * DT * i, -0.2 * DT * i)).astype(np.float32)
        tick = guard.tick(wanted, guard._command, 0.01)
    assert tick.followed and guard.state == RUN and tick.reason == ""
    np.testing.assert_allclose(tick.command, wanted, atol=1e-6)


def test_a_command_that_cannot_be_caught_is_a_fault_after_the_blend_time():
    guard, states = running(), []
    for i in range(60):
        wobble = START + 0.03 * (-1) ** i  # 3 rad/s back and forth
        states.append(guard.tick(wobble, START, 0.0).state)
    assert states.index(STOPPING) == round(LIMITS.max_blend / DT) and states[-1] == FAULT


# mutation: in Guard._follow call self._stop(HOLD, ...) -> not latched, this fails.
@pytest.mark.parametrize("bad", [(None, START, 0.0), (START, None, 0.0), (START, START, 9.0), (START + 5, START, 0.0)])
def test_a_bad_tick_stops_within_limits_and_latches(bad):
    guard = running()
    path = driven(guard, moving_away, 40)
    assert guard.state == RUN
    stop = np.array([guard.tick(*bad).command for _ in range(30)])
    assert guard.state == FAULT and violations(np.vstack([path, stop])) < 1e-7
    # 0.4 rad/s at 10 rad/s^2 is two periods of braking; then at rest (or on the way to where the arm is held).
    assert stop[0][0] - path[-1][0] == pytest.approx(0.2 * DT)
    assert stop[1][0] == pytest.approx(stop[0][0])
    np.testing.assert_allclose(stop[-1], stop[-2])
    good = stop[-1]
    for _ in range(5):
        assert not guard.tick(good, good, 0.0).followed and guard.state == FAULT
    assert guard.run().startswith("expected state HOLD, got FAULT")


def test_after_the_stop_the_guard_holds_where_the_arm_was_measured_and_does_not_follow_its_sagging():
    guard = running()
    driven(guard, moving_away, 40)
    guard.fault("emergency stop")
    reached = guard._command
    for i in range(60):
        tick = guard.tick(None, reached - 0.03 - 0.0005 * max(i - 3, 0), 0.0)
    assert tick.state == FAULT and tick.reason == "emergency stop"
    np.testing.assert_allclose(tick.command, reached - 0.03, atol=0.001)


def test_reset_leads_to_hold_only_with_fresh_inputs_near_the_arm_and_never_to_run():
    guard = running()
    guard.fault("emergency stop")
    guard.fault("something later")
    assert guard.reset() == "expected state FAULT, got STOPPING"
    for _ in range(3):
        tick = guard.tick(START, START, 9.0)
    assert tick.reason == "emergency stop" and "age" in guard.reset() and guard.state == FAULT
    guard.tick(START + 0.3, START, 0.0)
    assert "away" in guard.reset() and guard.state == FAULT
    guard.tick(START, START, 0.0)
    assert guard.reset() == "" and guard.state == HOLD
    assert not guard.tick(START + 0.001, START, 0.0).followed


def test_hold_stops_without_a_fault_and_a_fault_while_stopping_still_latches():
    guard = running()
    driven(guard, moving_away, 40)
    guard.hold()
    assert guard.tick(START, START, 0.0).state == STOPPING
    guard.fault("late fault")
    for _ in range(5):
        guard.tick(START, START, 0.0)
    assert guard.state == FAULT
    guard.hold()
    assert guard.state == FAULT
    other = running()
    other.hold()
    other.tick(START, START, 0.0)
    assert other.state == HOLD


def test_bad_limits_and_periods_are_refused():
    with pytest.raises(ValueError, match="velocity: expected 2 finite numbers"):
        Limits([0, 0], [1, 1], [np.nan, 1], [1, 1])
    with pytest.raises(ValueError, match="acceleration: expected positive"):
        Limits([0, 0], [1, 1], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="low below high"):
        Limits([0, 2], [1, 1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="positive control period"):
        Guard(LIMITS, float("nan"))


def test_limits_come_from_an_absolute_joint_spec_and_nothing_else():
    part = {"start": 0, "stop": 2, "unit": "rad", "low": (-1, -2), "high": (1, 2)}
    spec = Spec((ActionPart("arm", kind="joint", **part),), (), (), DT)
    limits = Limits.from_spec(spec, velocity=1.5, acceleration=[3, 4], max_age=0.1)
    np.testing.assert_array_equal(limits.low, [-1, -2])
    np.testing.assert_array_equal(limits.velocity, [1.5, 1.5])
    assert limits.max_age == 0.1
    delta = Spec((ActionPart("arm", kind="joint", reference="previous", **part),), (), (), DT)
    with pytest.raises(SpecMismatch, match="expected absolute joint or gripper targets, got previous joint"):
        Limits.from_spec(delta, 1, 1)


def test_the_guard_starts_without_torch_and_without_ros():
    code = (
        "import sys, robot_value.guard, robot_value.safety; print([m for m in ('torch', 'rclpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
