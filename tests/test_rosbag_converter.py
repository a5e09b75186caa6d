"""Bags through the converter: equal to the live nodes' rule to the bit, split where inputs drop, damage named."""

import itertools
import json
import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from recorded import assert_same
from ros_bags import BEGIN, EVENTS, TOPICS, Sent, joint_state, make, recording, std, trajectory, write_bag
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from robot_value.convert import ConversionError, convert
from robot_value.datasets import bag_files, rosbag_converter
from robot_value.datasets.rosbag_converter import Config
from robot_value.episodes import EpisodeStore
from robot_value.resampling import Assembler, Received
from robot_value.topics import load

SECOND = 10**9


def config(tmp_path, text=TOPICS, **changes):
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    return Config(topics=str(path), **changes)


def opened(tmp_path, sent, text=TOPICS, plugin="mcap", **changes):
    return config(tmp_path, text, **changes).build(write_bag(tmp_path / "bag", sent, plugin))


def events(*said):
    """(seconds, topic, value) as messages."""
    kinds = {"/recording": "Bool", "/success": "Bool", "/intervention": "Bool", "/task": "String", "/reward": "Float32"}
    return [Sent(BEGIN + round(at * SECOND), topic, std(kinds[topic], value)) for at, topic, value in said]


def merged(*parts):
    return sorted((sent for part in parts for sent in part), key=lambda each: each.time)


def live(topics, sent, start, steps, late):
    """What a node sees: messages into mailboxes when they come, a tick taken `late` ns after it was due."""
    assembler, waiting, seen = Assembler(topics, start), list(sent), []
    for step in range(steps):
        while waiting and waiting[0].time <= assembler.time(step) + late:
            each = waiting.pop(0)
            stamp = each.message.header.stamp
            stamp = stamp.sec * SECOND + stamp.nanosec or each.time
            assembler.put(each.topic, Received(each.time, stamp, lambda message=each.message: message))
        seen.append(assembler.take(step))
    return seen


@pytest.mark.parametrize("plugin", ["mcap", "sqlite3"])
@pytest.mark.parametrize("late", [0, 30_000_000])
def test_a_bag_gives_what_a_node_saw_to_the_bit(tmp_path, plugin, late):
    # mutations: the window of _ticks one tick short; seeds left out; joints not reordered; bgr as rgb
    sent = recording(2.0, drop={"/wrist": (0.9, 1.2)})
    source = opened(tmp_path, sent, plugin=plugin)
    topics = load(tmp_path / "topics.yaml")
    seen = live(topics, sent, sent[0].time, 40, late)
    assert source.survey.keys == ("0.0", "0.1") and "becomes 2 episodes" in source.survey.left_out[-1]
    for run, steps, index in zip(source.plan.runs, source.survey.steps, range(2), strict=True):
        episode = source.read(index)
        frames = steps + episode.final_observed
        ticks = seen[run.first : run.first + steps + 1]
        np.testing.assert_array_equal(episode.states, [t.state(topics) for t in ticks[:frames]])
        np.testing.assert_array_equal(episode.images["wrist"], [t.images(topics)["wrist"] for t in ticks[:frames]])
        np.testing.assert_array_equal(episode.actions, [t.action(topics) for t in ticks[1:]])
        assert not any(t.stale for t in ticks[:steps]) and not any(t.stale_action for t in ticks[1:])
        assert len(episode) == steps and (episode.terminated, episode.truncated, episode.success) == (False, True, None)
    usable = [not a.stale and not b.stale_action for a, b in itertools.pairwise(seen)]
    assert sum(source.survey.steps) == sum(usable)


def test_state_and_action_are_those_that_the_robot_said_and_was_told(tmp_path):
    """By hand: state k comes at t_k, command k 10 ms later, joints in another order."""
    sent = []
    for k in range(6):
        at = BEGIN + k * 50_000_000
        sent += [Sent(at, "/joint_states", joint_state(at, [3 * k, k, 2 * k], "cab"))]
        sent += [Sent(at + 10_000_000, "/command", trajectory([[-k, -2 * k, -3 * k]]))]
    text = TOPICS[: TOPICS.index("cameras")].replace("-4", "-99")
    source = opened(tmp_path, sent, text)
    episode = source.read(0)
    assert episode.states.tolist() == [[k, 2 * k, 3 * k] for k in range(6)]
    assert episode.actions.tolist() == [[-k, -2 * k, -3 * k] for k in range(5)] and episode.final_observed


SAID = events(
    (0.05, "/task", "fold"), (0.1, "/recording", True), (0.2, "/recording", True), (0.5, "/reward", 0.25),
    (0.51, "/reward", 0.5), (0.62, "/intervention", True), (0.81, "/intervention", False), (1.0, "/recording", False),
    (1.1, "/success", True), (1.15, "/task", "unfold"), (1.3, "/recording", True), (1.35, "/reward", 4.0),
    (1.9, "/recording", False),
)  # fmt: skip


def test_two_recordings_of_a_bag_with_all_that_is_said_about_them(tmp_path):
    # mutations: reward of the next step; success only until the stop; every True a new start
    source = opened(tmp_path, merged(recording(2.0), SAID), TOPICS + EVENTS)
    assert source.survey.keys == ("0", "1") and source.survey.spec.language
    first, second = source.read(0), source.read(1)
    assert (first.task, second.task) == ("fold", "unfold")
    assert (first.success, first.terminated, first.truncated) == (True, True, False)
    assert (second.success, second.terminated, second.truncated) == (None, False, True)
    run, other = source.plan.runs
    assert run.span.start == BEGIN + SECOND // 10 and run.span.stop == BEGIN + SECOND
    ends = 0.1 + 0.05 * (run.first + 1 + np.arange(len(first)))  # s, of each step
    expected = 0.25 * ((ends - 0.05 < 0.5) & (ends >= 0.5 - 1e-9)) + 0.5 * ((ends - 0.05 < 0.51) & (ends >= 0.51))
    np.testing.assert_array_equal(first.rewards, expected.astype(np.float32))
    assert first.rewards.sum() == 0.75 and second.rewards.sum() == (4.0 if other.first == 0 else second.rewards.sum())
    np.testing.assert_array_equal(first.source, np.where((ends >= 0.62) & (ends < 0.81), 2, 0))
    assert first.provenance["bag"] == "bag"


def test_rewards_that_come_with_the_stop_are_the_last_steps_and_later_ones_are_counted(tmp_path):
    # mutation: times[-1] or span.until as the end of the last step; left_out silent
    said = events(
        (0.1, "/recording", True), (0.91, "/reward", 1.0), (0.92, "/recording", False), (0.925, "/success", True),
        (0.94, "/reward", 0.5), (1.5, "/reward", 8.0),
    )  # fmt: skip
    source = opened(tmp_path, merged(recording(2.0), said), TOPICS + EVENTS)
    episode = source.read(0)
    assert episode.success and episode.rewards[-1] == 1.5 and not episode.rewards[:-1].any()
    assert "reward: 1 of 3 that are not 0 came outside every episode, 8 in all" in source.survey.left_out


def test_only_the_stretch_that_ends_a_recording_has_the_rewards_after_it(tmp_path):
    # mutation: every run's rewards until the stop
    said = events(
        (0.1, "/recording", True), (1.12, "/reward", 2.0), (1.91, "/reward", 4.0), (1.92, "/recording", False)
    )
    sent = recording(2.5, drop={"/wrist": (0.9, 1.2)})
    source = opened(tmp_path, merged(sent, said), TOPICS + EVENTS)
    first, second = (source.read(i).rewards for i in range(2))
    assert not first.any() and second[-1] == 4 and second.sum() == 4
    assert any(line.startswith("reward: 1 of 2") for line in source.survey.left_out)


def test_success_is_unknown_where_the_end_was_not_seen(tmp_path):
    # mutation: ends_span without the tail
    said = events((0.0, "/recording", True), (2.9, "/recording", False), (2.95, "/success", True), *EMPTY)
    for name, stops, tail, success in (("a", 2.6, 1.0, True), ("b", 1.5, 1.0, None), ("c", 1.5, 2.0, True)):
        folder = tmp_path / name
        folder.mkdir()
        sent = recording(3.0, drop={"/wrist": (stops, 9.0)})
        source = opened(folder, merged(sent, said), TOPICS + EVENTS, tail=tail)
        episode = source.read(len(source.survey.keys) - 1)
        assert episode.success is success and episode.terminated is (success is True)
        assert "/wrist at" in source.survey.left_out[-1]


EMPTY = ((0.01, "/task", ""), (0.01, "/reward", 0.0), (0.01, "/intervention", False))


def test_what_was_never_said_is_assumed_and_said_to_be(tmp_path):
    # mutation: events needed like inputs
    said = events((0.1, "/recording", True), (0.9, "/recording", False))
    source = opened(tmp_path, merged(recording(1.0), said), TOPICS + EVENTS)
    episode = source.read(0)
    assert (episode.success, episode.task, episode.rewards.any()) == (None, "", False)
    assert "rewards are 0; /reward, which --source.topics names, is not in the bag" in source.survey.assumed


def test_only_messages_that_a_tick_uses_are_deserialised(tmp_path, monkeypatch):
    # mutation: decode in Bag.messages
    source = opened(tmp_path, recording(2.0))
    opened_types = []
    decode = bag_files.Bag.decode
    monkeypatch.setattr(bag_files.Bag, "decode", lambda *given: opened_types.append(given[1].topic) or decode(*given))
    steps = len(source.read(0))
    assert opened_types.count("/wrist") <= steps + 1 < 60 and opened_types.count("/joint_states") <= steps + 1


def test_a_bag_becomes_a_store_once(tmp_path):
    source = opened(tmp_path, merged(recording(2.0), SAID), TOPICS + EVENTS)
    with EpisodeStore.create(tmp_path / "store", source.survey.spec) as store:
        assert len(convert(source, store, progress=False).appended) == 2
        assert convert(source, store, progress=False).appended == ()
        for index, episode in enumerate(store):
            np.testing.assert_array_equal(episode.images["wrist"], source.read(index).images["wrist"])
    assert "2 episodes" in source.survey.to_text()


def test_a_file_by_itself_is_the_same_bag(tmp_path):
    source = opened(tmp_path, recording(1.0))
    alone = config(tmp_path).build(tmp_path / "bag" / "bag.mcap")
    assert_same(alone.read(0).actions, source.read(0).actions)
    shutil.copytree(tmp_path / "bag", tmp_path / "killed")
    (tmp_path / "killed" / "metadata.yaml").unlink()
    assert rosbag_converter.recognises(tmp_path / "killed")
    with pytest.raises(ConversionError, match=r"expected metadata.yaml, got none.*reindex.*bag.mcap"):
        config(tmp_path).build(tmp_path / "killed")


def test_only_bags_are_recognised(tmp_path):
    bag = write_bag(tmp_path / "bag", recording(0.2), "sqlite3")
    (tmp_path / "text.mcap").write_text("no")
    found = [
        rosbag_converter.recognises(p) for p in (bag, bag / "bag.db3", tmp_path / "text.mcap", tmp_path, Path("/no"))
    ]
    assert found == [True, True, False, False, False]


# -- what the bag does not say, and what is wrong with it --------------------------------------------------------------


def test_without_a_yaml_the_topics_are_listed_with_one_to_start_from(tmp_path):
    bag = write_bag(tmp_path / "bag", recording(1.0))
    with pytest.raises(ConversionError, match=r"/joint_states  sensor_msgs/msg/JointState  100 messages") as error:
        Config().build(bag)
    start = yaml.safe_load(str(error.value).split("you know it):\n")[1])
    assert set(start["state"][0]["joints"]) == {"a", "b", "c"} and start["cameras"][0]["encoding"] == "bgr8"
    with pytest.raises(ConversionError, match=r"state\[0\].unit: expected text, got None"):
        config(tmp_path, yaml.safe_dump(start)).build(bag)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("/wrist", "/front", "expected topic /front, got only /command, /joint_states, /wrist"),
        ("type: sensor_msgs/msg/JointState, joints: [a, b, c]", "type: x/msg/Y, names: [q, r, s], path: p",
         "/joint_states: expected x/msg/Y, got sensor_msgs/msg/JointState"),
        ("[a, b, c], unit: rad, max", "[a, b, d], unit: rad, max", "episode 0: /joint_states: expected joint 'd' once"),
        ("bgr8", "rgb8", "episode 0: /wrist: expected encoding rgb8, got 'bgr8'"),
        ("max_age: 0.06", "max_age: 0.000001", "expected at least one usable stretch, got span 0: 1"),
        ("rate: 20.0", "rate: 0", "rate: expected a positive number"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_is_an_error_with_file_and_topic(tmp_path, before, after, says):
    bag = write_bag(tmp_path / "bag", recording(1.0))
    with pytest.raises(ConversionError, match=says):
        config(tmp_path, TOPICS.replace(before, after)).build(bag).read(0)


def test_a_spec_may_say_other_units_and_limits_but_not_other_dims(tmp_path):
    bag = write_bag(tmp_path / "bag", recording(1.0))
    spec = config(tmp_path).build(bag).survey.spec
    path = tmp_path / "spec.json"
    for data, says in (
        (spec.to_json(), ""),
        ({**spec.to_json(), "state_names": ["x", "y", "z"]}, "state_names: expected"),
    ):
        path.write_text(json.dumps(data))
        if says:
            with pytest.raises(ConversionError, match=says):
                config(tmp_path, spec=str(path)).build(bag)
        else:
            assert config(tmp_path, spec=str(path)).build(bag).survey.spec == spec


def test_types_of_your_own_come_from_the_bag(tmp_path):
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg("std_msgs/Header header\nfloat32[3] q\n", "mine/msg/Arm"))
    empty = make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
    header = make("std_msgs/msg/Header", stamp=empty, frame_id="")
    sent = recording(1.0)
    own = [
        Sent(each.time, "/arm", types.types["mine/msg/Arm"](header=header, q=np.array([1, 2, i], np.float32)))
        for i, each in enumerate(sent)
        if each.topic == "/joint_states"
    ]
    bag = write_bag(tmp_path / "bag", merged([s for s in sent if s.topic == "/command"], own), types=types)
    text = TOPICS[: TOPICS.index("cameras")]
    text = text.replace("/joint_states, type: sensor_msgs/msg/JointState, joints: [a, b, c]",
                        "/arm, type: mine/msg/Arm, path: q, names: [x, y, z]")  # fmt: skip
    episode = config(tmp_path, text).build(bag).read(0)
    assert episode.states[:, :2].tolist() == [[1, 2]] * len(episode.states) and episode.states[-1, 2] > 80


def records(data):
    """(type, content) of MCAP records."""
    at = 0
    while at < len(data):
        size = struct.unpack_from("<Q", data, at + 1)[0]
        yield data[at], data[at + 9 : at + 9 + size]
        at += 9 + size


def without_chunks(file):
    """An MCAP file as recorders write it without chunks: data[8:-8] holds records, messages among them."""
    chunk = next(content for kind, content in records(file.read_bytes()[8:-8]) if kind == 6)
    assert struct.unpack_from("<I", chunk, 28) == (0,)  # not compressed
    head = b"\x89MCAP0\r\n\x01" + struct.pack("<QI4sI", 12, 4, b"ros2", 0)
    return head, [bytes([kind]) + struct.pack("<Q", len(each)) + each for kind, each in records(chunk[40:])]


def test_a_recording_that_was_cut_off_is_read_to_its_last_whole_record(tmp_path):
    # mutation: the cut file's own end instead of the last whole record's
    whole = opened(tmp_path, recording(2.0)).read(0)
    head, each = without_chunks(tmp_path / "bag" / "bag.mcap")
    file = tmp_path / "cut.mcap"
    file.write_bytes(head + b"".join(each[: len(each) // 2]) + each[len(each) // 2][:40])
    source = config(tmp_path).build(file)
    assert any("40 bytes of an unfinished record" in line for line in source.survey.left_out)
    cut = source.read(0)
    assert 5 < len(cut) < len(whole)
    np.testing.assert_array_equal(cut.states, whole.states[: len(cut.states)])
    np.testing.assert_array_equal(cut.images["wrist"], whole.images["wrist"][: len(cut.states)])
    bag = tmp_path / "bag" / "bag.mcap"
    bag.write_bytes(bag.read_bytes()[:-100])
    with pytest.raises(ConversionError, match=r"bag.mcap: cut off at byte"):
        config(tmp_path).build(tmp_path / "bag")


def test_a_damaged_message_names_file_topic_and_episode(tmp_path):
    sent = recording(1.0)
    bag = write_bag(tmp_path / "bag", sent, "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as connection:
        connection.execute("UPDATE messages SET data = substr(data, 1, 30) WHERE topic_id = 1")
    connection.close()
    topic = sent[0].topic
    with pytest.raises(ConversionError, match=rf"bag: episode 0: .*bag: {topic}: expected a .* of 30 bytes"):
        config(tmp_path).build(bag).read(0)


def test_a_chunk_that_unpacks_to_more_than_it_says_is_refused_before_it_is_unpacked(tmp_path):
    # mutation: no max_length, or no check of unused_data
    from backports import zstd

    packed = zstd.compress(b"\0" * (1 << 20))
    for name, claimed, data in (("little", 100, packed), ("twice", 1 << 20, packed * 2), ("huge", 1 << 40, packed)):
        chunk = struct.pack("<QQQII", 0, 0, claimed, 0, 4) + b"zstd" + struct.pack("<Q", len(data)) + data
        header = b"\x01" + struct.pack("<QI4sI", 12, 4, b"ros2", 0)
        path = tmp_path / f"{name}.mcap"
        path.write_bytes(b"\x89MCAP0\r\n" + header + b"\x06" + struct.pack("<Q", len(chunk)) + chunk)
        with pytest.raises(ConversionError, match=rf"{name}.mcap: chunk at byte 29: expected at most"):
            config(tmp_path).build(path)


def test_times_that_cannot_be_and_files_that_lie_elsewhere_are_refused(tmp_path):
    sent = [Sent(5, "/command", trajectory([[0, 0, 0]])), *recording(1.0)]
    bag = write_bag(tmp_path / "bag", sent)
    with pytest.raises(ConversionError, match="is the time of a message wrong"):
        config(tmp_path).build(bag)
    (bag / "bag.mcap").rename(tmp_path / "elsewhere.mcap")
    (bag / "bag.mcap").symlink_to(tmp_path / "elsewhere.mcap")
    with pytest.raises(ConversionError, match="got a link that leaves it"):
        config(tmp_path).build(bag)


@pytest.mark.parametrize("plugin", ["mcap", "sqlite3"])
def test_bytes_changed_anywhere_never_raise_anything_but_a_conversion_error(tmp_path, plugin):
    bag = write_bag(tmp_path / "bag", recording(0.3), plugin)
    file = next(path for path in bag.iterdir() if path.name.startswith("bag."))
    data, rng = file.read_bytes(), np.random.default_rng(0)
    known = config(tmp_path)
    for _ in range(10):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            changed[at] ^= int(rng.integers(1, 256))
        file.write_bytes(changed[: int(rng.integers(1, len(data)))] if rng.random() < 0.3 else changed)
        try:
            source = known.build(bag)
            for index in range(len(source.survey.keys)):
                source.read(index)
        except ConversionError as error:
            assert str(bag) in str(error)
