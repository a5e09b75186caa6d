"""The guard's core: nothing outside the limits is ever published, whatever comes in; faults latch."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.braking import Brakes, Motion
from robot_value.guard import BAD_STATES, FAULT, HOLD, RUN, STOPPING, Guard
from robot_value.safety import UNLIMITED, Limits
from robot_value.types import ActionPart, Spec, SpecMismatch

DT = 0.02
RATES = {"velocity": [1.0, 2.0], "acceleration": [10.0, 5.0], "jerk": [200.0, 150.0]}
LIMITS = Limits([-1.0, -2.0], [1.0, 0.5], **RATES)
START = np.array([0.1, -0.2])


def violations(commands, limits=LIMITS, dt=DT):
    """The independent oracle: largest excess over position, velocity, acceleration and jerk limits, from rest on.

    In units of the limits; 1e-15 of rounding in a position is 1e-15 / dt^3 in a jerk.
    """
    path = np.vstack([commands[:1]] * 3 + [commands])
    assert np.isfinite(path).all()
    speed = np.diff(path, axis=0) / dt
    change = np.diff(speed, axis=0) / dt
    snap = np.diff(change, axis=0) / dt
    excess = [(limits.low - path).max(), (path - limits.high).max()]
    for values, most in ((speed, limits.velocity), (change, limits.acceleration), (snap, limits.jerk)):
        excess.append((np.abs(values) / most).max() - 1)
    return max(excess)


def enabled(limits=LIMITS, start=START, **options):
    guard = Guard(limits, DT, **options)
    guard.tick(None, start, 0.0)
    guard.enable(True)
    return guard


def driven(guard, wanted, steps):
    """Commands published while the arm follows exactly and `wanted(i)` is asked for."""
    published = [guard.motion.position]
    for i in range(steps):
        published.append(guard.tick(wanted(i), published[-1], 0.0).command)
    return np.array(published)


def away(i):
    """Joint 0 goes to and fro smoothly, at up to 0.38 rad/s."""
    return START + np.array([0.06 * (1 - np.cos(2 * np.pi * i * DT)), 0.0])


numbers = st.one_of(
    st.floats(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e308, 5e-324]),
)
vectors = st.one_of(
    st.lists(numbers, min_size=2, max_size=2),
    st.sampled_from([None, [], [0.0], [0.0] * 3, [[0.0, 0.0]], "text", ["a", "b"], [None, 0.0], {}, [10**400, 0]]),
)
ages = st.one_of(st.floats(0, 0.06), st.sampled_from([np.nan, np.inf, -1.0, None, "old", 1e9]))
requests = st.sampled_from(["", "", "", "", "enable", "disable", "fault", "reset", "bad", "good"])
# What is asked for relative to the last command, or garbage; what was measured likewise; its age; a request.
near = st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=2).map(np.array)
events = st.tuples(st.one_of(near, vectors), st.one_of(near, vectors), ages, requests)


# mutation: in Brakes.advance drop `np.minimum(self._most, a + 1)` -> acceleration and jerk broken.
# mutation: in safety.vector drop the `<= ABSURD` test -> NaN is published.
@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=50))
def test_no_published_command_ever_leaves_the_limits_whatever_comes_in(stream):
    guard = enabled()
    ask = {"enable": lambda: guard.enable(True), "disable": lambda: guard.enable(False), "reset": guard.reset}
    ask |= {"fault": lambda: guard.fault("e"), "bad": lambda: guard.bad_state("b"), "good": guard.good_state, "": str}
    pieces = [[guard.motion.position]]
    for wanted, measured, age, request in stream:
        ask[request]()
        base = START if guard.motion is None else guard.motion.position
        wanted, measured = (base + x if isinstance(x, np.ndarray) else x for x in (wanted, measured))
        command = guard.tick(wanted, measured, age).command
        pieces.append([]) if command is None else pieces[-1].append(command)  # after a silence it begins anew
    for piece in filter(None, pieces):
        assert violations(np.array(piece)) < 1e-6


# mutation: in Brakes.advance `safe[0] = True` -> all of `safe`: the arm cannot brake before its limit.
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(0.01, 0.4), st.floats(0.01, 0.2))
def test_a_wild_policy_is_braked_inside_the_limits(seed, velocity, slowing, swelling):
    rng, dt = np.random.default_rng(seed), [0.008, 0.02, 0.05][seed % 3]
    acceleration = velocity / slowing
    limits = Limits([-1.0], [1.0], [velocity], [acceleration], [acceleration / swelling])
    brakes, motion, path = Brakes(limits, dt), Motion.still(np.zeros(1)), [np.zeros(1)]
    for _ in range(12):
        push = rng.choice([-1e9, 1e9, 0.0])
        for _ in range(rng.integers(1, 12)):
            motion = brakes.advance(motion, np.array([push]))
            path.append(motion.position)
    path += [step.position for step in brakes.path(motion)]  # and a stop at the worst moment
    assert violations(np.array(path), limits, dt) < 1e-6


# mutation: in braking._brake `- 0.5` -> `- 1.5`: slower than allowed.
def test_a_stop_is_as_fast_as_the_limits_allow_and_ends_exactly_at_rest():
    for joint, speed in itertools.product((0, 1), (0.01, 0.1, 0.5, 0.99)):
        a, j = LIMITS.acceleration[joint], LIMITS.jerk[joint]
        brakes = Brakes(Limits([-9.0], [9.0], [2.0], [a], [j]), DT)
        steps = list(brakes.path(Motion(np.zeros(1), np.array([speed]), np.zeros(1))))
        ideal = speed / a + a / j if speed > a * a / j else 2 * np.sqrt(speed / j)  # s, in continuous time
        assert steps[-1].at_rest and ideal / DT - 1 <= len(steps) <= ideal / DT + 1.4
        assert (np.diff([step.position[0] for step in steps]) >= 0).all()  # never backwards


# mutation: in Brakes.toward `np.clip((end <= 0).sum(0) - 1` -> without `- 1`: overshoots.
@pytest.mark.parametrize("distance", [1e-5, 0.003, 0.1, 0.8])
def test_a_target_is_reached_exactly_without_overshooting_and_soon(distance):
    brakes, motion, steps = Brakes(LIMITS, DT), Motion.still(np.array([0.0, 0.0])), 0
    target = Motion.still(np.array([distance, -distance]))
    while not (motion.at_rest and (motion.position == target.position).all()):
        motion, steps = brakes.follow(motion, target), steps + 1
        assert motion.position[0] <= distance and motion.position[1] >= -distance and steps < 200
    v, a, j = LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk
    ideal = distance / v + v / a + a / j  # s, an upper bound of the continuous optimum
    assert steps * DT <= ideal.max() + 5 * DT


# mutation: in Brakes.toward drop `target.velocity` -> never catches up.
def test_a_moving_plan_is_caught_up_with_and_then_followed_to_the_bit():
    guard = enabled()
    for i in range(60):
        wanted = START + np.array([0.02 + 0.3 * DT * i, -0.2 * DT * i])
        tick = guard.tick(wanted, guard.motion.position, 0.01)
    assert tick.followed and guard.state == RUN and tick.reason == "" and guard.clamps == 0
    assert (tick.command == wanted).all()


# mutation: in Brakes.follow replace `motion.to(exact, self.dt)` by `step` -> off by rounding.
def test_a_smooth_plan_within_limits_is_published_as_it_is_with_float32_rounding_too():
    for kind in (np.float64, np.float32):
        guard = enabled(start=away(0))
        wanted = np.array([away(i) for i in range(100)], kind)
        published = driven(guard, lambda i, wanted=wanted: wanted[i], 100)[1:]
        assert guard.clamps == 0
        np.testing.assert_array_equal(published, wanted)


# mutation: in Guard._count never call self.fault -> goes on for ever.
def test_a_plan_beyond_the_limits_is_clamped_and_counted_and_too_much_of_it_latches():
    guard = enabled()
    path = driven(guard, lambda i: START + np.array([0.3 * (-1) ** (i // 4), 0.0]), 100)
    assert violations(path) < 1e-6
    assert guard.state == FAULT and "more than 25 clamped commands within 1 s: joint 0" in guard.reason
    few = enabled()
    for burst in range(4):  # a few wild ticks a second are bearable
        driven(few, lambda i: away(0) + np.array([0.05 * (i in range(30, 33)), 0]), 60)
        assert few.state == RUN, burst
    assert 0 < few.clamps < 100


# mutation: in Guard._count drop `behind` -> plans of a policy that changes its mind a little latch a fault.
def test_the_seams_between_one_decision_and_the_next_are_rounded_off_and_not_counted():
    guard, rng = enabled(), np.random.default_rng(0)
    limited, offset = 0, 0.0
    for i in range(400):
        offset = rng.uniform(-0.004, 0.004) if i % 10 == 0 else offset
        wanted = START + 0.1 * np.sin(2 * np.pi * 0.3 * DT * i) + offset
        limited += not guard.tick(wanted, guard.motion.position, 0.0).followed
    assert limited > 100 and guard.clamps == 0 and guard.state == RUN


# mutation: in Guard._follow ignore `periods` -> the gap is taken for the plan's speed, and the plan's end overshot.
def test_after_a_period_that_came_late_the_plan_is_caught_up_with_at_its_own_speed():
    limits = Limits([-2.0], [2.0], [1.0], [10.0], [400.0])
    guard, top = enabled(limits, np.zeros(1)), 0.15
    wave = [top / 2 * (1 - np.cos(2 * np.pi * i / 50)) for i in range(51)]
    path = [guard.tick([wave[i]], guard.motion.position, 0.0, 1 + (i == 21)).command[0] for i in (*range(20), 21)]
    path += [guard.tick([wave[i]], guard.motion.position, 0.0).command[0] for i in range(22, 51)]
    assert max(path) < top + 0.001 and path[-1] == wave[-1] and violations(np.array(path)[:, None], limits) < 1e-6


# mutation: in Guard._follow leave out `self._blend()` -> a guard that came late latches a fault of its own making.
def test_what_a_late_guard_lags_behind_a_fast_plan_is_not_held_against_the_plan():
    limits = Limits([-5.0], [5.0], [1.0], [10.0], [400.0], max_blend=0.5, max_clamps=25)
    guard = enabled(limits, np.zeros(1))
    path = [guard.tick([0.9 * DT * i], guard.motion.position, 0.0).command for i in range(50)]
    path += [guard.tick([0.9 * DT * 55], guard.motion.position, 0.0, 6).command]
    path += [guard.tick([0.9 * DT * i], guard.motion.position, 0.0).command for i in range(56, 130)]
    assert guard.state == RUN and 0 < guard.clamps <= 25 and path[-1] == 0.9 * DT * 129
    assert violations(np.array(path), limits) < 1e-6
    for i in range(130, 210):  # a plan that is too fast in itself still latches
        guard.tick([0.9 * DT * 129 + 1.2 * DT * (i - 129)], guard.motion.position, 0.0)
    assert guard.state != RUN and "more than 25 clamped commands within 1 s" in guard.reason


def test_position_limits_are_kept_by_a_plan_that_runs_into_them():
    guard = enabled()
    path = driven(guard, lambda i: START + np.array([0.8 * DT * i, 0.0]), 90)
    assert violations(path) < 1e-6 and path[-1, 0] > 0.95


def test_the_guard_publishes_nothing_until_it_knows_where_the_arm_is():
    guard = Guard(LIMITS, DT)
    assert guard.tick(START, None, 0.0).command is None
    assert guard.tick(START, START, 1.0).command is None and guard.reason == "no valid measured state yet"
    tick = guard.tick(START, [1.5, 0.0], 0.0)
    assert tick.command is None and tick.reason == "joint 0 is outside its position limits; move the arm back"
    np.testing.assert_array_equal(guard.tick(None, START, 0.0).command, START)
    assert guard.state == HOLD and guard.reason == "holding"


def test_an_arm_that_rests_at_a_limit_is_held_at_the_limit_though_it_is_measured_a_little_beyond():
    # mutation: no room at the limit -> nobody but the operator gets the arm away from it
    guard, end = Guard(LIMITS, DT), float(LIMITS.high[0])
    assert guard.tick(None, [end + 0.0011, 0.0], 0.0).command is None
    np.testing.assert_array_equal(guard.tick(None, [end + 0.0009, 0.0], 0.0).command, [end, 0.0])


# mutation: in Guard._why_not_run drop the `not self.enabled` test -> moves without being asked.
def test_motion_needs_to_be_wanted_fresh_and_near_the_arm():
    guard = Guard(LIMITS, DT)
    for _ in range(3):
        assert guard.tick(away(1), START, 0.0).state == HOLD
    assert guard.enable(True) == ""
    assert guard.tick(None, START, 0.0).state == HOLD
    assert guard.tick(START, START, 0.2).state == HOLD
    assert guard.tick(START, START + 0.2, 0.0).state == HOLD  # the arm is not where it is held
    assert guard.tick(START, START, 0.0).state == RUN


# mutation: in Guard.tick let `starved` stop with FAULT -> does not come back by itself.
@pytest.mark.parametrize("missing", ["plan", "state", "age"])
def test_what_runs_out_stops_within_limits_holds_and_comes_back_by_itself(missing):
    guard = enabled()
    path = list(driven(guard, away, 30))
    assert guard.state == RUN and abs(path[-1][0] - path[-2][0]) > 0.003
    for _ in range(40):
        here = guard.motion.position
        wanted, measured, age = {"plan": (None, here, 0), "state": (here, None, 0), "age": (here, here, 9)}[missing]
        tick = guard.tick(wanted, measured, age)
        path.append(tick.command)
    assert tick.state == HOLD and ("plan" if missing == "plan" else "measured state") in tick.reason
    assert (path[-1] == path[-9]).all()
    path += list(driven(guard, away, 60))[1:]
    assert guard.state == RUN and guard.clamps == 0 and violations(np.array(path)) < 1e-6


# mutation: in Guard.enable ask for state FAULT -> a wish while it brakes outlives the reset.
# mutation: in Guard._stop set `self.state = then` -> stands still at once, limits broken.
def test_a_fault_stops_within_limits_latches_and_needs_a_new_wish_after_the_reset():
    guard = enabled()
    path = list(driven(guard, away, 30))
    guard.fault("emergency stop")
    guard.fault("something later")
    assert guard.reset() == "expected state FAULT or HOLD, got STOPPING"
    assert guard.enable(True).startswith("expected no fault") and not guard.enabled  # it still brakes
    stop = [guard.tick(away(31 + i), guard.motion.position, 0.0).command for i in range(30)]
    assert violations(np.array(path + stop)) < 1e-6 and guard.state == FAULT and guard.reason == "emergency stop"
    assert not guard.motion.velocity.any() and guard.enable(True).startswith("expected no fault")
    guard.tick(None, stop[-1], 9.0)
    assert guard.reset() == "expected a fresh measured state, got none"
    guard.tick(None, stop[-1], 0.0)
    assert guard.reset() == "" and guard.state == HOLD and guard.reason == "reset"
    assert guard.tick(stop[-1], stop[-1], 0.0).state == HOLD  # nobody wanted motion since
    guard.enable(True)
    assert guard.tick(stop[-1], stop[-1], 0.0).state == RUN


def test_after_a_fault_the_guard_holds_where_the_arm_was_measured_and_does_not_follow_its_sagging():
    guard = enabled()
    driven(guard, away, 30)
    guard.fault("emergency stop")
    while guard.state == STOPPING:
        tick = guard.tick(None, (reached := guard.motion.position) - 0.03, 0.0)
    for i in range(60):
        tick = guard.tick(None, reached - 0.03 - 0.0005 * i, 0.0)
    np.testing.assert_allclose(tick.command, reached - 0.03, atol=1e-9)


# mutation: in Guard.bad_state drop the count -> one bad message latches.
def test_three_bad_states_in_a_row_latch_and_a_good_one_between_forgives():
    guard = enabled()
    for _ in range(5):
        guard.bad_state("NaN")
        guard.bad_state("NaN")
        guard.good_state()
    assert guard.tick(START, START, 0.0).state == RUN
    for _ in range(BAD_STATES):
        guard.bad_state("NaN")
    assert guard.tick(START, START, 0.0).state in (STOPPING, FAULT) and "3 bad measured states" in guard.reason


# mutation: in Guard._begin begin at once -> the first command is where the arm still moves.
def test_a_scene_reset_in_hold_makes_the_guard_silent_until_the_arm_is_still_and_then_begin_there():
    guard, real = enabled(reanchors=True), enabled()
    there = np.array([-0.6, 0.3])
    assert guard.tick(None, there, 0.0).command is None
    for i in range(3):
        assert guard.tick(None, there + 0.01 * i, 0.0).command is None  # still moves
    ticks = [guard.tick(None, there, 0.0).command for _ in range(12)]
    assert ticks[3] is None and (ticks[-1] == there).all()
    held = real.tick(START, there, 0.0)  # a real arm is not followed, and does not move before somebody looked
    assert (held.command == START).all() and "reset to hold where the arm is" in real._why_not_run(START)
    assert real.reset() == "" and real.tick(None, there, 0.0).command is None


# mutation: in Guard._follow test only step.position -> stops too late.
def test_the_tool_stays_in_its_workspace_braking_included():
    def inside(commands):
        return bool((commands[:, 0] <= 0.3).all())

    guard = enabled(inside=inside)
    path = driven(guard, lambda i: START + np.array([min(0.8 * DT * i, 0.5), 0.0]), 60)
    assert 0.2 < path[:, 0].max() <= 0.3 and violations(path) < 1e-6
    assert guard.state == FAULT and "workspace" in guard.reason


# mutation: in Limits.from_spec give grippers the arm's rates -> a gripper's step is clamped.
def test_grippers_are_limited_in_position_only():
    arm = ActionPart("arm", 0, 1, "joint", "rad", (-1,), (1,))
    spec = Spec((arm, ActionPart("gripper", 1, 2, "gripper", "1", (0,), (1,))), (), (), DT)
    limits = Limits.from_spec(spec, 1.0, 10.0, 200.0)
    assert limits.velocity.tolist() == [1.0, UNLIMITED["velocity"]] and limits.rated.tolist() == [True, False]
    guard = enabled(limits, np.zeros(2))
    for wanted, got in ((1.0, 1.0), (0.0, 0.0), (1.7, 1.0), (0.5, 0.5)):
        tick = guard.tick([0.0, wanted], np.zeros(2), 0.0)
        assert tick.command[1] == pytest.approx(got, abs=1e-9) and tick.followed
    for _ in range(5):
        tick = guard.tick(None, np.zeros(2), 0.0)
    assert tick.command[1] == pytest.approx(0.5, abs=1e-9)  # held


# mutation: in Guard._begin take the gripper from `position`; keep `_told` over a scene reset.
@pytest.mark.parametrize(("reanchors", "gripper"), [(False, 0.8), (True, 0.0)])
def test_a_gripper_stays_where_it_was_told_to_be_when_the_arm_begins_anew_and_not_in_another_scene(reanchors, gripper):
    limits = Limits([-1.0, 0.0], [1.0, 1.0], *([rate, UNLIMITED[name]] for name, (rate, _) in RATES.items()))
    guard = enabled(limits, np.array([0.1, 0.0]), reanchors=reanchors)
    held, moved = np.array([0.1, 0.8]), np.array([0.6, 0.0])
    assert (guard.tick(held, np.array([0.1, 0.0]), 0.0).command == held).all()
    guard.fault("emergency stop") if not reanchors else guard.enable(False)
    for _ in range(5):
        guard.tick(None, np.array([0.1, 0.0]), 0.0)
    guard.tick(None, moved, 0.0)
    assert reanchors or guard.reset() == ""
    ticks = [guard.tick(None, moved, 0.0) for _ in range(20)]
    assert ticks[0].command is None and ticks[-1].command.tolist() == [0.6, gripper]


def test_lock_step_obeys_to_the_bit_and_begins_anew_where_it_is_told():
    guard = Guard(Limits([-1.0], [1.0], *([UNLIMITED[name]] for name in UNLIMITED)), 0.05)
    for wanted in np.float32([0.3, -0.7, 0.1, 0.9]).astype(np.float64):
        guard.begin([0.0])
        assert guard.obey(np.array([wanted])).command[0] == wanted
        assert guard.obey(np.array([-wanted])).command[0] == -wanted
    assert guard.obey(np.array([1.5])).command[0] == 1.0


def test_bad_limits_and_periods_are_refused():
    with pytest.raises(ValueError, match="velocity: expected 2 finite numbers"):
        Limits([0, 0], [1, 1], [np.nan, 1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="jerk: expected positive"):
        Limits([0, 0], [1, 1], [1, 1], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="low below high"):
        Limits([0, 2], [1, 1], [1, 1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="positive control period"):
        Guard(LIMITS, float("nan"))
    with pytest.raises(ValueError, match=r"a stop from full velocity within 1.0 s, got 2.20 s for dim 1"):
        Guard(Limits([0, 0], [1, 1], [1, 2], [10, 1], [100, 10]), DT)


def test_limits_come_from_an_absolute_joint_spec_and_nothing_else():
    part = {"start": 0, "stop": 2, "unit": "rad", "low": (-1, -2), "high": (1, 2)}
    spec = Spec((ActionPart("arm", kind="joint", **part),), (), (), DT)
    limits = Limits.from_spec(spec, velocity=1.5, acceleration=[3, 4], jerk=(50,), max_age=0.1)
    assert limits.low.tolist() == [-1, -2] and limits.velocity.tolist() == [1.5, 1.5]
    assert limits.acceleration.tolist() == [3, 4] and limits.jerk.tolist() == [50, 50] and limits.max_age == 0.1
    with pytest.raises(ValueError, match=r"jerk: expected 1 number or one per arm joint \(2\), got 3"):
        Limits.from_spec(spec, 1, 1, [1, 2, 3])
    delta = Spec((ActionPart("arm", kind="joint", reference="previous", **part),), (), (), DT)
    with pytest.raises(SpecMismatch, match="expected absolute joint or gripper targets, got previous joint"):
        Limits.from_spec(delta, 1, 1, 1)


def test_the_guard_starts_without_torch_and_without_ros():
    core = "from robot_value import braking, guard, safety, wire; "
    core += "from robot_value.deploy import lockstep, measured, plans"
    heavy = "('torch', 'rclpy', 'scipy', 'mujoco')"
    code = f"import sys; {core}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_arm_that_does_not_follow_is_stopped():
    # mutation: look at the gap in HOLD only
    guard, ticks = enabled(), []
    for i in range(120):
        ticks.append(guard.tick(START + np.array([min(0.8, 0.3 * i * DT), 0.0]), START, 0.0))
        if guard.state != RUN and i > 5:
            break
    assert guard.state == STOPPING and "measured state" in guard.reason
    gap = np.abs(ticks[-2].command - START).max()  # before the stop began
    assert LIMITS.tracking < gap < LIMITS.tracking + 2 * DT * LIMITS.velocity.max()
