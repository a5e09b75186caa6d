"""An episode from what the nodes say: bit by bit, nothing invented, and what was lost is said."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import assert_same, make_decision
from recordings import (
    BEGIN,
    SCHEMA,
    SPEC,
    STEP,
    TOPICS,
    action,
    command,
    picture,
    pixels,
    recorded,
    state,
    step,
    take,
)

from robot_value import wire
from robot_value.deploy.album import AT_LEAST, Album
from robot_value.deploy.assembling import episodes, lost
from robot_value.deploy.recording import Controls, Ending, parse_decision, parse_step
from robot_value.resampling import SECOND, Arrivals, Assembler, Received
from robot_value.topics import parse
from robot_value.types import HUMAN, POLICY


def ended(made, event="ended", time=1 << 62, steps=None):
    made.ending = Ending(event, time, steps)
    return episodes(made, shortest=1, provenance={})


# -- observations ------------------------------------------------------------------------------------------------------


def test_an_undisturbed_take_becomes_one_episode_bit_by_bit():
    # mutation: the picture of step k + 1; red and blue swapped; states through float64 arithmetic
    (episode,) = ended(recorded(6), steps=6)
    assert_same(episode.states, np.stack([state(k) for k in range(7)]))
    assert_same(episode.images["wrist"], np.stack([pixels(k) for k in range(7)]))
    assert_same(episode.actions, np.stack([action(k) for k in range(6)]))
    assert episode.truncated and not episode.terminated and episode.success is None and episode.final_observed
    assert episode.task == "lift" and episode.provenance == {"seed": 40, "episode": 0, "ended_by": "ended"}
    assert episode.spec == SPEC and (episode.source == POLICY).all() and episode.commanded is None


def test_a_frame_may_come_after_the_step_that_names_it():
    # mutation: look for the frame only when the step comes
    made, album = take(), Album(TOPICS.cameras, 1.0)
    made.put_step(step(3), album)
    assert made.missing == {("wrist", 777 + 3 * STEP)} and not made.whole(3)
    album.put("/wrist", *picture(2))
    made.look(album)
    album.put("/wrist", *picture(3))
    made.look(album)
    assert made.whole(3) and not made.missing and made.bytes == 60
    np.testing.assert_array_equal(made.pictures["wrist", 777 + 3 * STEP], pixels(3))


def test_lock_step_frames_are_found_by_their_name_because_every_episode_has_the_same_stamps():
    # mutation: compare stamps in lock-step
    album = Album(TOPICS.cameras, 1.0)
    for episode in (0, 1):
        received, _ = picture(4 + episode, lockstep=True)
        album.put("/wrist", received, f"{episode}:4")
    np.testing.assert_array_equal(album.open(("wrist", "0:4")), pixels(4))
    np.testing.assert_array_equal(album.open(("wrist", "1:4")), pixels(5))


def test_an_album_keeps_some_seconds_and_never_fewer_than_some_frames():
    # mutation: no lower bound, or popleft without looking at the age
    album = Album(TOPICS.cameras, 0.2)
    for k in range(50):
        album.put("/wrist", *picture(k))
    there = [k for k in range(50) if ("wrist", 777 + k * STEP) in album]
    assert there == list(range(29, 50))
    sparse = Album(TOPICS.cameras, 0.001)
    for k in range(50):
        sparse.put("/wrist", *picture(k))
    assert [k for k in range(50) if ("wrist", 777 + k * STEP) in sparse] == list(range(50 - AT_LEAST, 50))
    with pytest.raises(KeyError):
        sparse.open(("wrist", 777))


def test_a_lost_frame_splits_the_episode_and_nothing_is_invented():
    # mutation: repeat the frame before; keep success for a part that does not end the take; start_step not shifted
    made = recorded(8, without=(3,))
    for k in (0, 2, 4, 6):
        made.put_decision(make_decision(np.random.default_rng(k), k // 2))
    first, second = ended(made, "success", steps=8)
    assert [len(first), len(second)] == [3, 4] and not first.final_observed and second.final_observed
    assert_same(first.images["wrist"], np.stack([pixels(k) for k in (0, 1, 2)]))
    assert_same(second.images["wrist"], np.stack([pixels(k) for k in (4, 5, 6, 7, 8)]))
    assert_same(second.actions, np.stack([action(k) for k in (4, 5, 6, 7)]))
    assert (first.success, first.terminated, second.success, second.terminated) == (None, False, True, True)
    assert [int(d.start_step[0]) for d in first.decisions] == [0, 2]
    assert [int(d.start_step[0]) for d in second.decisions] == [0, 2]
    assert second.provenance["part"] == [4, 8, 8] and second.provenance["lost"] == {"wrist": 1} == lost(made)


def test_a_step_that_never_came_and_a_step_without_command_split_too():
    # mutation: count frames instead of numbering them
    made = recorded(9)
    del made.steps[4]
    assert [len(e) for e in ended(made, steps=9)] == [4, 4] and lost(made) == {"step": 1}
    made = recorded(5, lockstep=True)
    made.commands = [c for c in made.commands if c.step != 2]
    assert [len(e) for e in ended(made, steps=5)] == [2, 2] and lost(made) == {"action": 1}


# -- actions -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 40), min_size=2, max_size=8),
    times=st.lists(st.integers(0, 200), min_size=1, max_size=30, unique=True),
    humans=st.sets(st.integers(0, 29)),
    order=st.randoms(use_true_random=False),
)
def test_the_action_of_a_step_is_the_newest_command_published_at_or_before_its_end(gaps, times, humans, order):
    # mutation: searchsorted "left"; the end of step k is t_k; the order of arrival counts; the grid has equal steps
    made, album, ticks = take(), Album(TOPICS.cameras, 1.0), np.cumsum([0, *gaps]) * 1_000_000 + BEGIN
    for k, time in enumerate(ticks):
        album.put("/wrist", *picture(k))
        made.put_step(step(k, time=int(time)), album)
    commands = [
        command(i, BEGIN + time * 1_000_000, wire.HUMAN if i in humans else wire.POLICY) for i, time in enumerate(times)
    ]
    for each in order.sample(commands, len(commands)):
        made.put_command(each)
    made.ending = Ending("ended", 1 << 62, len(gaps))
    for k, found in enumerate(made.executed()):
        before = [c for c in commands if c.about.start <= ticks[k + 1]]
        newest = max(before, key=lambda c: c.about.start, default=None)
        assert (found is None) == (newest is None)
        if found is not None:
            assert found.source == newest.about.source
            np.testing.assert_array_equal(found.action, newest.actions[0].astype(np.float32))


def test_a_command_that_is_too_old_is_no_action():
    # mutation: no max_age
    made = recorded(60)
    made.commands = made.commands[:3]
    (episode,) = ended(made, steps=60)
    assert len(episode) == 52  # step 52 ends 0.505 s after the last command was published
    assert lost(made) == {"action": 8}


def test_exactly_the_steps_whose_command_was_a_humans_are_a_humans():
    # mutation: a step in which a human said anything; stops count as human
    made = recorded(6)
    made.commands = []
    for k, source in enumerate([wire.POLICY, wire.HUMAN, wire.HUMAN, wire.STOP, wire.POLICY, wire.POLICY]):
        made.put_command(command(k, BEGIN + k * STEP + 2, source))
    made.put_command(command(5, BEGIN + 4 * STEP + 1, wire.HUMAN))  # older than step 4's own
    (episode,) = ended(made, steps=6)
    assert episode.source.tolist() == [POLICY, HUMAN, HUMAN, POLICY, POLICY, POLICY]
    assert episode.provenance["stopped"] == [3]


def test_in_lock_step_the_commands_number_counts_and_other_episodes_do_not():
    # mutation: no look at the episode; time instead of step
    made = recorded(3, lockstep=True)
    made.commands = []
    for k in (2, 0, 1):
        made.put_command(command(k, time=BEGIN - k))
    made.put_command(command(1, BEGIN, numbers=[9, 9, 9], episode=7))
    (episode,) = ended(made, steps=3)
    assert_same(episode.actions, np.stack([action(k) for k in range(3)]))


def test_what_was_planned_is_kept_where_something_else_was_executed():
    # mutation: a plan that comes late changes steps that are over; a human's step keeps the policy's plan
    made, album = take(), Album(TOPICS.cameras, 1.0)
    wanted = np.stack([action(k) for k in range(6)]).astype(np.float64)

    def plan(first, numbers):
        about = wire.About(first, 0, first, 0, 0, 0, SCHEMA)
        made.put_plan(wire.Plan(about, numbers, None, 0.01))

    plan(0, wanted)
    for k in range(5):
        album.put("/wrist", *picture(k))
        made.put_step(step(k), album)
        if k == 3:
            plan(1, np.full((4, 3), 0.5))  # steps 1 and 2 are over
        clamped = [0.25, 0.25, 0.25] if k == 1 else wanted[k] if k < 3 else [0.5, 0.5, 0.5]
        made.put_command(command(k, BEGIN + k * STEP + 1, wire.HUMAN if k == 2 else wire.POLICY, clamped))
    made.planned[2] = np.zeros(3, np.float32)  # the policy wanted something else while the human drove
    (episode,) = ended(made, steps=4)
    expected = wanted[:4].astype(np.float32)
    expected[3] = 0.5
    assert_same(episode.commanded, expected)
    np.testing.assert_array_equal(episode.actions[1], np.float32([0.25] * 3))


MIXED = parse(
    {
        "rate": 100.0,
        "max_skew": 1.0,
        "state": [{"topic": "/s", "type": "std_msgs/msg/Float32", "names": ["s"], "unit": "rad", "max_age": 1.0}],
        "action": [
            {"name": "arm", "topic": "/arm", "type": "std_msgs/msg/Float32", "names": ["u"], "kind": "other"}
            | {"unit": "1", "low": -99, "high": 99, "max_age": 0.02},
            {"name": "more", "topic": "/more", "type": "std_msgs/msg/Float32", "names": ["d"], "kind": "other"}
            | {"unit": "1", "low": -99, "high": 99, "reference": "previous", "max_age": 0.0099},
        ],
    }
)


@settings(max_examples=200, deadline=None)
@given(times=st.lists(st.tuples(st.sampled_from(["/arm", "/more"]), st.integers(0, 16)), min_size=12, max_size=40))
def test_without_a_guard_a_steps_action_is_that_of_the_resampling_rule(times):
    # mutation: < end; a command for ever; increments twice or left out; the command of the step before
    controls, assembler = Controls(MIXED), Assembler(MIXED, BEGIN)
    heard = [
        (topic, Received(BEGIN + half * STEP // 2, 0, lambda i=i: SimpleNamespace(data=float(i))))
        for i, (topic, half) in enumerate(sorted(times, key=lambda each: each[1]))
    ]
    for topic, received in heard:
        controls.put(topic, received)
        controls.put("/s", received)
    arrivals = Arrivals(heard)
    for k in range(8):
        for topic, received in arrivals.until(assembler.time(k)):
            assembler.put(topic, received)
        tick = assembler.take(k)
        if k:
            found = controls.action(assembler.time(k - 1), assembler.time(k))
            assert (found is None) == bool(tick.stale_action)
            assert found is None or found.tolist() == tick.action(MIXED).tolist()


def test_what_controllers_were_told_is_kept_for_as_long_as_steering_may_be_late():
    # mutation: keep all; drop the newest one although it holds
    controls = Controls(TOPICS)
    told = [Received(BEGIN + second * SECOND, 0, lambda: None) for second in (0, 1, 2, 9)]
    for received in told:
        controls.put("/command", received)
    assert list(controls._kept["/command"]) == told[2:]


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event, offset, steps, final, terminated, success",
    [
        ("stop", 4, 4, True, False, None),  # step 4 was not over
        ("failure", 4, 5, True, True, False),  # step 4 is the one that failed
        ("success", 8, 9, False, True, True),  # nothing was seen after it
    ],
)
def test_a_stop_cuts_the_step_under_way_and_the_tasks_end_keeps_it(event, offset, steps, final, terminated, success):
    # mutation: the same for all events
    made = recorded(8)
    made.put_command(command(8, BEGIN + 8 * STEP + 3))
    (episode,) = ended(made, event, BEGIN + offset * STEP + STEP // 2)
    assert (len(episode), episode.final_observed) == (steps, final)
    assert (episode.terminated, episode.truncated, episode.success) == (terminated, not terminated, success)


def test_a_success_ends_the_episode_with_the_step_in_which_it_came_and_its_reward():
    # mutation: the step before; rewards by the time of the tick before
    made = recorded(8)
    made.put_success(BEGIN + 2 * STEP, False)
    assert made.succeeded() is None
    made.rewards = [(BEGIN + 5 * STEP + 3, 1.0), (BEGIN + 7 * STEP, 5.0), (BEGIN, 3.0)]
    made.put_success(BEGIN + 5 * STEP + 3, True)
    made.put_success(BEGIN + 6 * STEP, False)  # the arm goes on; the task was done
    assert made.succeeded() == Ending("success", BEGIN + 5 * STEP + 3, 6)
    made.ending = made.succeeded()
    (episode,) = episodes(made, 1, {})
    assert len(episode) == 6 and episode.success is True and episode.rewards.tolist() == [0, 0, 0, 0, 0, 1]


def test_a_success_waits_for_the_tick_that_ends_its_step():
    # mutation: min over all steps
    made = recorded(3)
    made.put_success(BEGIN + 3 * STEP + 1, True)
    assert made.succeeded() is None
    made.put_step(step(4), Album(TOPICS.cameras, 1.0))
    assert made.succeeded().steps == 4


def test_in_lock_step_rewards_and_successes_are_counted():
    # mutation: off by one; complete without the last reward
    made = recorded(5, lockstep=True)
    for k in range(4):
        made.rewards.append((1, float(k)))
        made.put_success(1, k >= 3)
    assert made.succeeded() == Ending("success", 1, 4)
    made.ending = Ending("ended", 0, 5)
    assert not made.complete()
    made.rewards.append((1, 4.0))
    assert made.complete()
    (episode,) = episodes(made, 1, {})
    assert episode.rewards.tolist() == [0, 1, 2, 3, 4] and episode.success is True and episode.truncated


def test_a_take_is_complete_when_nothing_is_under_way():
    # mutation: forget the final tick, its picture, or the last command
    made = recorded(4, without=(4,))
    made.ending = Ending("ended", 0, 4)
    assert not made.complete()
    album = Album(TOPICS.cameras, 1.0)
    album.put("/wrist", *picture(4))
    made.look(album)
    assert made.complete()
    made.ending = Ending("ended", 0, 5)
    assert not made.complete()


def test_stretches_that_are_too_short_are_left_out_and_nothing_may_be_left():
    # mutation: > instead of >=
    made = recorded(8, without=(3,))
    made.ending = Ending("ended", 0, 8)
    assert [len(e) for e in episodes(made, 4, {})] == [4] and episodes(made, 5, {}) == []
    empty = take()
    empty.ending = Ending("stop", BEGIN)
    assert episodes(empty, 1, {}) == [] and lost(empty) == {}


# -- bytes -------------------------------------------------------------------------------------------------------------


def packed(**changes):
    about = {"episode": 2, "step": 3, "time": 4, "used": {"/wrist": 5, "/joint_states": 6}, "frames": {"wrist": "2:3"}}
    array = changes.pop("state", state(3))
    return wire.pack(about | changes, {"state": array})


def test_a_step_is_read_as_it_was_sent():
    # mutation: frames by name in real time
    read = parse_step(packed(), TOPICS, lockstep=False)
    assert (read.episode, read.step, read.time, read.frames) == (2, 3, 4, {"wrist": 5})
    assert_same(read.state, state(3))
    assert parse_step(packed(), TOPICS, lockstep=True).frames == {"wrist": "2:3"}


def test_a_decision_is_of_one_robot():
    # mutation: take the first of two; IndexError for none
    made = make_decision(np.random.default_rng(0), 2)
    made = replace(made, seconds={"score": 0.5})
    assert_same(parse_decision(wire.pack_decision(made)), made)
    for rows in ([0, 0], []):
        many = replace(made, **{name: getattr(made, name)[rows] for name in wire.ARRAYS}, reason=("base",) * len(rows))
        with pytest.raises(wire.WireError, match="one robot"):
            parse_decision(wire.pack_decision(many))


@pytest.mark.parametrize(
    "wrong",
    [
        {"episode": -1},
        {"step": 1.0},
        {"step": 1 << 21},
        {"time": None},
        {"used": {}},
        {"used": {"/wrist": "5"}},
        {"used": None},
        {"state": np.zeros(3)},
        {"state": np.zeros(4, np.float32)},
        {"state": np.full(3, np.nan, np.float32)},
    ],
    ids=str,
)
def test_a_step_that_is_not_what_was_agreed_on_is_refused(wrong):
    # mutation: drop any one check of parse_step
    with pytest.raises(wire.WireError):
        parse_step(packed(**wrong), TOPICS, lockstep=False)
