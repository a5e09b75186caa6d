"""The YAML of topics, messages into arrays, and the resampling rule against a naive implementation."""

import array
import itertools
import math
from pathlib import Path
from types import SimpleNamespace as Message

import numpy as np
import pytest
import ros_bags
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.messages import MessageError, extract, said
from robot_value.resampling import SECOND, Arrivals, Assembler, Received, latched, runs, summed, ticks, time_of
from robot_value.topics import Event, Numbers, Pictures, TopicsError, load, parse
from robot_value.types import Camera
from robot_value.yaml_keys import KeyMistake

ROOT = Path(__file__).resolve().parents[1]
JOINTS = ("a", "b", "c")


def yaml_file(tmp_path, text):
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    return path


# -- the YAML ---------------------------------------------------------------------------------------------------------


def test_the_example_loads_and_is_the_one_that_the_page_shows():
    # mutation: another limit in docs/topics.md
    example = ROOT / "launch" / "params" / "topics.yaml"
    spec = load(example).spec
    assert (spec.dt, spec.state_dim, spec.action_dim, spec.language) == (0.05, 8, 8, True)
    assert spec.state_names[-1] == "gripper_width" and spec.state_units == ("rad",) * 7 + ("m",)
    assert [part.name for part in spec.parts] == ["arm", "gripper"] and spec.parts[1].kind == "gripper"
    assert spec.low[3] == np.float32(-3.0718) and spec.high[7] == 1
    assert spec.cameras == (Camera("wrist", 224, 224), Camera("front", 224, 224))
    assert f"```yaml\n{example.read_text()}```" in (ROOT / "docs" / "topics.md").read_text()


def test_a_wish_for_velocities_names_the_dims_so():
    joint_state = {"topic": "/j", "type": "sensor_msgs/msg/JointState", "joints": ["a"], "unit": "1", "max_age": 1}
    arm = {**joint_state, "name": "arm", "kind": "joint", "low": 0, "high": 1}
    states = [joint_state, {**joint_state, "path": "velocity"}]
    topics = parse({"rate": 10, "max_skew": math.inf, "state": states, "action": [arm]})
    assert topics.spec.state_names == ("a", "a.velocity")
    assert topics.inputs == {"/j": "sensor_msgs/msg/JointState"}


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ("rate: 20.0", "rate: -1", "rate: expected a positive number, got -1"),
        ("rate: 20.0", "rate: 20.0\nspeed: 3", "speed: unknown key; known are rate, state"),
        ("max_skew: 0.05\n", "", "max_skew: expected a value, got nothing"),
        ("topic: /joint_states", "topic: joint states", r"state\[0\].topic: expected something like /joint_states"),
        ("joints: [a, b, c], unit", "joints: [a, b, a], unit", r"state\[0\].joints: expected different names"),
        ("joints: [a, b, c], unit: rad", "unit: rad", r"state\[0\].joints: expected a value"),
        ("unit: rad, max", "unit: [rad, m], max", r"state\[0\].unit: expected 3 of them, one per dim"),
        ("max_age: 0.06", "max_age: .nan", r"state\[0\].max_age: expected a finite number"),
        ("max_age: 0.06", "max_age: 0.06, max_age: 9", "expected every key once, got 'max_age' twice"),
        ("low: -4", "low: 5", r"action\[0\]: action part 'arm': low must be below high"),
        ("low: -4", "low: yes", r"action\[0\].low: expected a finite number, got True"),
        ("kind: joint", "kind: elbow", r"action\[0\]: ActionPart.kind: expected one of"),
        ("kind: joint", "kind: joint\n    reference: current", r"action\[0\].max_age: expected less than a step"),
        ("encoding: bgr8", "encoding: jpeg", r"cameras\[0\].encoding: expected one of rgb8"),
        ("height: 4", "height: 4.5", r"cameras\[0\].height: expected 1 to"),
        ("sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", r"cameras\[0\].type: expected one of"),
        ("topic: /wrist", "topic: /command", "/command: expected one type"),
        ("rate: 20.0", "reward: {topic: /r, type: std_msgs/msg/Bool}\nrate: 20.0", "reward.type: expected std_msgs/m"),
        ("rate: 20.0", "stop: {topic: /r, type: std_msgs/msg/Bool}\nrate: 20.0", "stop: expected a start topic too"),
        ("rate: 20.0", "rate: !!python/object/apply:os.getcwd []", "expected YAML"),
        ("rate: 20.0", "#" * 70_000 + "\nrate: 20.0", "expected at most 65536 bytes"),
        ("rate: 20.0", "rate: " + "[" * 5_000, "expected YAML"),
    ],
)
def test_every_mistake_names_its_key(tmp_path, before, after, names):
    assert before in ros_bags.TOPICS
    load(yaml_file(tmp_path, ros_bags.TOPICS))
    with pytest.raises(TopicsError, match=names):
        load(yaml_file(tmp_path, ros_bags.TOPICS.replace(before, after, 1)))


def test_a_file_that_is_not_there_and_one_that_holds_a_list_are_errors(tmp_path):
    with pytest.raises(TopicsError, match="nowhere"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(KeyMistake, match="expected a mapping, got a list"):
        parse([])


# -- messages ---------------------------------------------------------------------------------------------------------

STATE = Numbers("/j", "sensor_msgs/msg/JointState", "position", JOINTS, JOINTS, ("rad",) * 3, 0.1)


def joint_state(names, position):
    return Message(name=list(names), position=array.array("d", position))


def test_joints_are_found_by_name_in_every_order():
    # mutation: return values without the index in _by_name
    for order in itertools.permutations(range(4)):
        names, values = [("a", "b", "c", "extra")[i] for i in order], [(1.0, 2.0, 3.0, 9.0)[i] for i in order]
        got = extract(STATE, joint_state(names, values))
        assert got.dtype == np.float32 and got.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "values", "says"),
    [
        ("ab", [1, 2], "expected joint 'c' once, got it 0 times"),
        ("abca", [1, 2, 3, 4], "expected joint 'a' once, got it 2 times"),
        ("abc", [1, 2], "expected one number per joint .3., got 2"),
        ("abc", [1, 2, math.nan], "expected finite"),
        ("abc", [1, 2, 1e300], "expected finite"),
    ],
)
def test_a_joint_message_that_is_not_whole_is_refused(names, values, says):
    with pytest.raises(MessageError, match=f"/j: .*{says}"):
        extract(STATE, joint_state(names, values))
    with pytest.raises(MessageError, match="/j: expected a sensor_msgs/msg/JointState"):
        extract(STATE, Message(velocity=[]))


def numbers(kind, path, dims):
    names = tuple(map(str, range(dims)))
    return Numbers("/n", kind, path, (), names, names, 1.0)


def test_numbers_come_out_of_arrays_poses_twists_and_nested_fields():
    xyz = Message(x=1.0, y=2.0, z=3.0)
    pose = Message(pose=Message(position=xyz, orientation=Message(x=4.0, y=5.0, z=6.0, w=7.0)))
    assert extract(numbers("", "pose", 7), pose).tolist() == [1, 2, 3, 4, 5, 6, 7]
    twist = Message(twist=Message(linear=xyz, angular=Message(x=-1.0, y=-2.0, z=-3.0)))
    assert extract(numbers("", "twist", 6), twist).tolist() == [1, 2, 3, -1, -2, -3]
    assert extract(numbers("", "data", 2), Message(data=[0.5, 1.5])).tolist() == [0.5, 1.5]
    assert extract(numbers("", "a.b", 1), Message(a=Message(b=3))).tolist() == [3]
    with pytest.raises(MessageError, match="expected 2 numbers, got 3"):
        extract(numbers("", "data", 2), Message(data=[1.0, 2.0, 3.0]))
    with pytest.raises(MessageError, match="expected numbers, got a str; is `path` right"):
        extract(numbers("", "data", 2), Message(data="left"))


@pytest.mark.parametrize(("elapsed", "point"), [(0.0, 0), (0.05, 0), (0.051, 1), (0.1, 1), (0.15, 2), (9.0, 2)])
def test_a_trajectory_gives_the_point_that_is_being_approached(elapsed, point):
    # mutation: `t > elapsed`, or always the first point
    entry = Numbers("/t", "trajectory_msgs/msg/JointTrajectory", "positions", JOINTS, JOINTS, ("rad",) * 3, 1.0)
    message = ros_bags.trajectory([[i, 10 + i, 20 + i] for i in range(3)], dues=(0.05, 0.1, 0.15), names="cab")
    assert extract(entry, message, elapsed).tolist() == [10 + point, 20 + point, point]
    with pytest.raises(MessageError, match="points: expected at least one"):
        extract(entry, Message(points=[], joint_names=[]), elapsed)


ORDERS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "mono8": [0, 0, 0]}


def pictures(kind, encoding):
    return Pictures("/c", f"sensor_msgs/msg/{kind}", Camera("c", 4, 5), encoding, 1.0)


@pytest.mark.parametrize("encoding", ORDERS)
@pytest.mark.parametrize("padding", [0, 3])
def test_every_encoding_becomes_rgb_without_the_padding(encoding, padding):
    # mutation: bgr8 as rgb8; reshape without the step
    channels = 1 + max(ORDERS[encoding]) + ("a" in encoding)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
    got = extract(pictures("Image", encoding), ros_bags.image(0, pixels, encoding, padding))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.stack([pixels[..., i] for i in ORDERS[encoding]], -1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "rgb8"}, "expected encoding bgr8, got 'rgb8'"),
        ({"encoding": "16UC1"}, "expected encoding bgr8"),
        ({"height": 5}, "expected 4 x 5 pixels, got 5 x 5"),
        ({"data": b"\0" * 71}, "expected 4 rows of at least 15 bytes, got 71 bytes in rows of 18"),
        ({"step": 14, "data": b"\0" * 56}, "expected 4 rows of at least 15 bytes, got 56 bytes in rows of 14"),
    ],
)
def test_an_image_that_is_not_what_the_mapping_says_is_refused(change, says):
    message = Message(height=4, width=5, encoding="bgr8", step=18, data=b"\0" * 72)
    assert extract(pictures("Image", "bgr8"), message).shape == (4, 5, 3)
    with pytest.raises(MessageError, match=says):
        extract(pictures("Image", "bgr8"), Message(**{**vars(message), **change}))


def test_compressed_images_are_decoded_and_never_larger_than_said():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(
        extract(pictures("CompressedImage", "png"), ros_bags.compressed(pixels, "png")), pixels
    )
    flat = np.full((4, 5, 3), 100, np.uint8)
    got = extract(pictures("CompressedImage", "jpeg"), ros_bags.compressed(flat, "jpeg"))
    assert np.abs(got.astype(int) - 100).max() <= 2
    png = ros_bags.compressed(pixels, "png")
    with pytest.raises(MessageError, match="expected jpeg"):
        extract(pictures("CompressedImage", "jpeg"), png)
    with pytest.raises(MessageError, match="expected png"):
        extract(pictures("CompressedImage", "png"), Message(format="png", data=bytes(png.data)[:60]))
    with pytest.raises(MessageError, match="expected 4 x 5 pixels, got 3000 x 4"):
        extract(pictures("CompressedImage", "png"), ros_bags.compressed(np.zeros((3000, 4, 3), np.uint8), "png"))


def test_events_say_what_they_hold():
    assert said(Event("/s", "std_msgs/msg/Bool"), Message(data=np.bool_(True))) is True
    assert said(Event("/s", "std_msgs/msg/Float32"), Message(data=2)) == 2.0
    assert said(Event("/s", "std_msgs/msg/String"), Message(data="fold")) == "fold"
    assert said(Event("/s", "std_msgs/msg/Empty"), Message()) is True


# -- the resampling rule ----------------------------------------------------------------------------------------------


def mapping(max_skew=math.inf, reference="absolute", rate=10.0):
    one = {"type": "std_msgs/msg/Float64", "unit": "1"}
    action = {"topic": "/u", "name": "u", "names": ["u"], "kind": "other", "low": 0, "high": 1, "reference": reference}
    states = [{**one, "topic": f"/{n}", "names": [n], "max_age": age} for n, age in (("x", 0.12), ("y", 0.3))]
    return parse({"rate": rate, "max_skew": max_skew, "state": states, "action": [{**one, **action, "max_age": 0.09}]})


def received(time, value, stamp=None):
    return Received(time, time if stamp is None else stamp, lambda: Message(data=value))


MILLISECOND = SECOND // 1000
# On a grid of 10 ms, so that messages often come exactly at a tick, together, or as old as they may be.
ARRIVING = st.lists(
    st.tuples(st.sampled_from(["/x", "/y", "/u"]), st.integers(-20, 120), st.integers(-6, 6)), max_size=60
)


def stream(drawn):
    """(topic, Received) in order of arrival; the value tells which message it is."""
    drawn = sorted(drawn, key=lambda each: each[1])
    return [
        (topic, received(10 * at * MILLISECOND, number, 10 * (at + off) * MILLISECOND))
        for number, (topic, at, off) in enumerate(drawn)
    ]


def naive(topics, messages, step):
    """The rule as it is written, looking at every message for every tick."""
    now = step * MILLISECOND * 100
    newest = {}
    for topic in topics.inputs:
        before = [message for each, message in messages if each == topic and message.time <= now]
        if before:
            newest[topic] = max(reversed(before), key=lambda message: message.time)
    ages = {"/x": 120, "/y": 300, "/u": 90}
    old = {t for t in ages if t not in newest or now - newest[t].time > ages[t] * MILLISECOND}
    stamps = [newest[topic].stamp for topic in ("/x", "/y") if topic in newest]
    skewed = not old & {"/x", "/y"} and max(stamps) - min(stamps) > topics.max_skew * SECOND
    in_step = sum(topic == "/u" and now - 100 * MILLISECOND < m.time <= now for topic, m in messages)
    if topics.action[0].counted and in_step != 1:
        old.add("/u")
    values = {topic: message.open().data for topic, message in newest.items()}
    return values, old & {"/x", "/y"} | ({"max_skew"} if skewed else set()), "/u" in old


def seen(tick):
    return {t: m.open().data for t, m in tick.used.items()}, set(tick.stale), bool(tick.stale_action)


@settings(max_examples=60, deadline=None)
@given(drawn=ARRIVING, skew=st.sampled_from([math.inf, 0.05]), increments=st.booleans())
def test_recorded_messages_become_the_ticks_of_the_naive_rule(drawn, skew, increments):
    # mutations: `<` for `<=` in until; `>=` for `>` in _old; age of the stamp; arrived not reset; skew over /u
    topics = mapping(skew, "current" if increments else "absolute")
    messages = stream(drawn)
    for tick in ticks(topics, 0, range(10), Arrivals(messages)):
        if tick.step or not increments:  # the step before the first tick is nobody's
            assert seen(tick) == naive(topics, messages, tick.step)


@settings(max_examples=60, deadline=None)
@given(drawn=ARRIVING, late=st.lists(st.integers(0, 99), min_size=10, max_size=10), skip=st.booleans())
def test_ticks_that_run_late_by_less_than_a_step_see_what_was_there_on_time(drawn, late, skip):
    # mutations: one slot in Mailbox; `due` one tick early
    topics = mapping(0.05)
    messages = stream(drawn)
    assembler, waiting = Assembler(topics, 0), list(messages)
    for step in range(0, 10, 2 if skip else 1):
        now = (100 * step + late[step]) * MILLISECOND
        while waiting and waiting[0][1].time <= now:
            assembler.put(*waiting.pop(0))
        if not skip or not late[step]:  # a loop that leaves ticks out must itself be on time
            assert seen(assembler.take(step)) == naive(topics, messages, step)


def test_a_message_at_the_very_tick_counts_even_where_a_later_one_came_before_the_tick_was_taken():
    # mutation: `<` for `<=` in Mailbox.put
    assembler = Assembler(mapping(), 0)
    for time, value in ((0, 1.0), (1, 2.0)):
        assembler.put("/x", received(time, value))
    assert seen(assembler.take(0))[0] == {"/x": 1.0} and seen(assembler.take(1))[0] == {"/x": 2.0}


def test_state_and_action_have_the_order_of_the_mapping_and_trajectories_their_age():
    topics = mapping()
    messages = [("/u", received(0, 3.0)), ("/y", received(1, 2.0)), ("/x", received(2, 1.0))]
    *_, tick = ticks(topics, 0, range(2), Arrivals(messages))
    assert tick.state(topics).tolist() == [1, 2] and tick.action(topics).tolist() == [3]
    assert tick.state(topics).dtype == np.float32 and tick.stale_action == {"/u": "0.100 s old"}


def test_ticks_do_not_drift():
    # mutation: add a rounded period instead of multiplying
    topics = mapping(rate=30.0)
    assert time_of(topics, 5, 3_000_000) == 5 + 100_000 * SECOND
    assert {time_of(topics, 0, k + 1) - time_of(topics, 0, k) for k in range(99)} == {33333333, 33333334}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_runs_are_the_longest_stretches_of_usable_steps(flags):
    # mutation: fresh_action[k] instead of [k + 1]
    fresh, fresh_action = [f for f, _ in flags], [a for _, a in flags]
    usable = {k for k in range(len(flags) - 1) if fresh[k] and fresh_action[k + 1]}
    found = runs(fresh, fresh_action)
    assert {k for first, steps, _ in found for k in range(first, first + steps)} == usable
    for first, steps, final in found:
        assert first - 1 not in usable and first + steps not in usable and final == fresh[first + steps]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 60), st.integers(-8, 8)), max_size=30))
def test_no_reward_is_lost_or_counted_twice_and_flags_hold_until_they_change(drawn):
    # mutation: "right" in summed, "left" in latched
    events, times = sorted(drawn, key=lambda each: each[0]), np.arange(0, 51, 10)
    expected = [sum(v for t, v in events if a < t <= b) for a, b in itertools.pairwise(times)]
    assert summed(events, times).tolist() == expected and summed(events, times).dtype == np.float32
    assert latched(events, times, None) == [([v for t, v in events if t <= at] or [None])[-1] for at in times]
