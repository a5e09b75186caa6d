"""When an observation is complete: on a clock that may pause, and by the frames' numbers; what plans are made of."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steered import joint_state, mapping, picture

from robot_value.deploy.ticking import Doorman, Ended, Live, Lockstep, Start, Told, Turn, frame_key, parse_event
from robot_value.deploy.ticking import spline_velocities as velocities
from robot_value.messages import MessageError
from robot_value.resampling import Received

SECOND = 1_000_000_000
MS = 1_000_000


class Clock:
    """ns; whoever waits for a deadline finds it has come."""

    def __init__(self):
        self.now = 10 * SECOND

    def __call__(self):
        return self.now


class Impatient(Turn):
    """A Turn whose waiting moves the clock instead of taking time."""

    def until(self, ready, of, deadline=None):
        if self.current is not of:
            raise Ended(self.why)
        if not ready() and deadline is not None:
            self.clock.now = max(self.clock.now, deadline)
        return ready()


def received(time, value=0.0):
    return Received(time, time, lambda: joint_state([value, 0.0]))


def live(max_age=0.1):
    clock = Clock()
    turn = Impatient(clock)
    ticks, start = Live(mapping(camera=False, max_age=max_age), turn), Start(1, 1, "", clock.now)
    turn.begin(start)
    return ticks, turn, clock, start


def value(tick):
    return float(tick.state(mapping(camera=False))[0])


# -- on the clock ------------------------------------------------------------------------------------------------------


def test_tick_zero_waits_for_inputs_that_are_newer_than_the_start():
    # mutation: the newest message whatever its age
    ticks, _, clock, start = live()
    ticks.put("/joint_states", received(clock.now - MS, 1.0))
    with pytest.raises(Ended, match="no fresh inputs: /joint_states nothing received"):
        ticks.begin(start, patience=0.5)
    clock.now += MS
    ticks.put("/joint_states", received(clock.now, 2.0))
    tick = ticks.begin(start, patience=0.5)
    assert (tick.step, tick.time, value(tick)) == (0, clock.now, 2.0)


def test_ticks_come_one_step_apart_with_the_newest_input_until_then():
    # mutation: the newest input at all
    ticks, _, clock, start = live()
    ticks.put("/joint_states", received(clock.now + MS, 0.0))
    clock.now += MS
    zero = ticks.begin(start, 1.0).time
    for ms, number in ((5, 1.0), (19, 2.0), (21, 3.0)):
        ticks.put("/joint_states", received(zero + ms * MS, number))
    assert [(value(tick), tick.time - zero) for tick in (ticks.take(1), ticks.take(2))] == [
        (2.0, 20 * MS),
        (3.0, 40 * MS),
    ]


def test_a_grid_that_restarts_keeps_what_was_received_and_counts_on():
    # mutation: forget the mailboxes; begin at step 0 again
    ticks, _, clock, start = live()
    ticks.put("/joint_states", received(clock.now + MS, 1.0))
    clock.now += MS
    zero = ticks.begin(start, 1.0).time
    ticks.put("/joint_states", received(zero + 70 * MS, 2.0))
    ticks.restart(0, zero + 60 * MS)
    tick = ticks.take(1)
    assert (tick.step, tick.time - zero, value(tick)) == (1, 80 * MS, 2.0)
    assert ticks.take(2).time - zero == 100 * MS


def test_after_a_gap_the_step_is_the_clocks_and_the_inputs_are_new():
    # mutation: number on without the gap; take what was there before
    ticks, turn, clock, start = live(max_age=0.03)
    ticks.put("/joint_states", received(clock.now + MS, 1.0))
    clock.now += MS
    zero = ticks.begin(start, 1.0).time
    assert ticks.take(1).stale == {} and list(ticks.take(2).stale) == ["/joint_states"]
    arrived = zero + 500 * MS
    real = turn.until

    def until(ready, of, deadline=None):
        clock.now = arrived
        ticks.put("/joint_states", received(arrived, 7.0))
        return real(ready, of, deadline)

    turn.until = until
    tick = ticks.resume(2, patience=5.0)
    assert (tick.step, value(tick), tick.stale) == (25, 7.0, {})
    assert ticks.time(26) - arrived == 20 * MS


# -- by numbers --------------------------------------------------------------------------------------------------------


@given(order=st.permutations(list(itertools.product(range(4), ["/joint_states", "/front"]))))
def test_in_lockstep_any_order_of_arrival_gives_the_same_ticks(order):
    # mutation: newest instead of the numbered one; complete with one topic
    turn, start = Turn(), Start(5, 1, "", 0)
    ticks = Lockstep(mapping(), turn)
    turn.begin(start)
    for step, topic in order:
        message = joint_state([step, 0.0]) if topic == "/joint_states" else picture(step)
        ticks.put(topic, Received(0, 0, lambda message=message: message), f"5:{step}")
    ticks.put("/joint_states", received(0, 99.0), "4:1")  # another episode's
    assert ticks.begin(start, 1.0).step == 0
    for step in range(1, 4):
        assert ticks.there(step) and not ticks.there(step + 10)
        tick = ticks.take(step, lambda: False)
        assert tick.state(mapping())[0] == step and tick.images(mapping())["front"][0, 0, 0] == step


def test_in_lockstep_waiting_ends_with_the_missing_frame_the_callers_word_or_the_deadline():
    # mutation: wait for the frame alone
    turn, start = Turn(), Start(5, 1, "", 0)
    ticks = Lockstep(mapping(camera=False), turn)
    turn.begin(start)
    ticks.put("/joint_states", received(0), "5:0")
    ticks.begin(start, 1.0)
    assert ticks.take(1, lambda: True) is None
    assert ticks.take(1, lambda: False, time.monotonic_ns() + 10 * MS) is None
    threading.Timer(0.05, lambda: ticks.put("/joint_states", received(0, 3.0), "5:1")).start()
    assert ticks.take(1, lambda: False).step == 1


@pytest.mark.parametrize("frame", ["", "5", "5:", ":1", "5:1:2", "a:1", "5:-1", "\u0665:1"])
def test_a_frame_without_its_number_is_refused(frame):
    # mutation: int() of whatever comes
    with pytest.raises(MessageError, match="lock-step arm"):
        frame_key(frame)


# -- turns -------------------------------------------------------------------------------------------------------------


def test_the_end_of_an_episode_wakes_whoever_waits_and_only_those_of_that_episode():
    # mutation: no notify; ignore the episode's number
    turn, start = Turn(), Start(3, 1, "", 0)
    turn.begin(start)
    turn.end("stop", 2)
    assert turn.current is start
    threading.Timer(0.02, lambda: turn.end("success", 3)).start()
    with pytest.raises(Ended, match=r"^success$"):
        turn.until(lambda: False, start)
    other = Start(4, 1, "", 0)
    turn.begin(other)
    with pytest.raises(Ended, match="another episode"):
        turn.until(lambda: True, start)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"event": "start", "episode": 1}', '{"event": "stop"}', "{" * 9999])
def test_an_event_that_is_none_is_refused(text):
    # mutation: KeyError
    with pytest.raises(ValueError, match="episode: expected an event"):
        parse_event(text)


def test_events_say_which_episode_begins_or_ends():
    # mutation: episode as seed
    said = {"event": "start", "episode": 3, "seed": 9, "task": "lift", "time": 5}
    assert parse_event(json.dumps(said)).start == Start(3, 9, "lift", 5)
    assert parse_event('{"event": "failure", "episode": 3}').why == "failure"


# -- what is let in ----------------------------------------------------------------------------------------------------


def admits(doorman, message, time, stamp=None):
    entry = {e.topic: e for e in mapping().observed}["/joint_states" if hasattr(message, "position") else "/front"]
    return doorman.admits(entry, message, Received(time, time if stamp is None else stamp, lambda: message), time)


def test_a_joint_is_found_by_name_and_a_message_without_it_is_dropped_and_counted():
    # mutation: let NaN through
    doorman = Doorman()
    assert admits(doorman, joint_state([0.1, 0.2]), 0)
    for wrong in ([np.nan, 0.0], [0.0, np.inf], [1e39, 0.0]):
        assert not admits(doorman, joint_state(wrong), 0)
    missing = joint_state([0.1, 0.2])
    missing.name = ["j1", "j1"]
    assert not admits(doorman, missing, 0)
    assert doorman.refused == {"/joint_states": 4} and "expected joint" in doorman.last_reason


def test_a_picture_of_another_encoding_size_or_length_is_dropped_and_counted():
    # mutation: in messages.check look at numbers only -> it is found at the tick, where nobody counts it
    doorman, other, small, half = Doorman(), picture(3), picture(3), picture(3)
    other.encoding, small.height, half.data = "bgr8", small.height - 1, half.data[: len(half.data) // 2]
    assert admits(doorman, picture(3), 0)
    for wrong in (other, small, half):
        assert not admits(doorman, wrong, 0)
    assert doorman.refused == {"/front": 3} and doorman.last_reason.startswith("/front: expected")


@pytest.mark.parametrize(("ahead", "fine"), [(49 * MS, True), (51 * MS, False)])
def test_a_stamp_in_the_future_is_refused(ahead, fine):
    # mutation: trust every stamp
    assert admits(Doorman(), joint_state([0, 0]), SECOND, SECOND + ahead) == fine


def test_a_frozen_camera_is_refused_after_its_time_until_the_picture_changes():
    # mutation: reset the time at every equal picture
    doorman = Doorman(max_frozen=1.0)
    admitted = [admits(doorman, picture(3), k * SECOND // 10) for k in range(15)]
    assert admitted == [True] * 11 + [False] * 4 and doorman.equal["/front"] == 14
    assert admits(doorman, picture(4), 15 * SECOND // 10) and doorman.equal["/front"] == 0
    assert all(admits(Doorman(), picture(3), k * SECOND) for k in range(15))  # 0: they may


# -- plans -------------------------------------------------------------------------------------------------------------


def cubic(p0, p1, m0, m1, dt, s):
    return (
        p0 * (1 - 3 * s**2 + 2 * s**3) + p1 * (3 * s**2 - 2 * s**3) + dt * (m0 * s * (1 - s) ** 2 - m1 * s**2 * (1 - s))
    )


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=9), st.sampled_from([0.02, 0.1]))
def test_the_spline_goes_through_its_points_and_never_beyond_them(values, dt):
    # mutation: arithmetic mean of the slopes (Catmull-Rom overshoots)
    points = np.array(values)[:, None]
    speed = velocities(points[1:], dt, points[0])
    assert speed.shape == points[1:].shape and speed[-1] == 0
    s, before = np.linspace(0, 1, 33), np.vstack([[0.0], speed])
    for i in range(1, len(points) - 1):  # between two points of the plan
        path = cubic(points[i, 0], points[i + 1, 0], before[i, 0], before[i + 1, 0], dt, s)
        low, high = sorted((points[i, 0], points[i + 1, 0]))
        assert low - 1e-9 <= path.min() and path.max() <= high + 1e-9


def test_on_a_straight_line_the_velocity_is_the_slope():
    # mutation: forget dt
    speed = velocities(np.arange(1.0, 6)[:, None] * [1, -2], 0.1, np.zeros(2))
    np.testing.assert_allclose(speed[:-1], [[10, -20]] * 4)
    assert velocities(np.ones((1, 2)), 0.1).tolist() == [[0, 0]]


def test_a_new_decision_replaces_what_was_told_from_its_first_step_on():
    # mutation: keep what lies beyond its end; observed of the newest alone
    told = Told(1)
    told.book(0, np.full((6, 1), 1.0), observed=100)
    told.book(3, np.full((2, 1), 2.0), observed=200)
    plan, observed = told.ahead(1)
    assert plan[:, 0].tolist() == [1, 1, 2, 2] and observed == 100
    plan, observed = told.ahead(3)
    assert plan[:, 0].tolist() == [2, 2] and observed == 200
    assert told.ahead(5)[0].shape == (0, 1)
