"""Arrays into messages and back: replay shows steering exactly the numbers and pixels of the log."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import make_episode
from recordings import SCHEMA, TOPICS
from ros_bags import TOPICS as BAG
from ros_bags import recording, write_bag

from robot_value.deploy.compose import write_image, write_numbers
from robot_value.deploy.playback import Playback, open_log
from robot_value.episodes import EpisodeStore
from robot_value.messages import MessageError, extract
from robot_value.ros_nodes.raw import header, is_stamped, message_type
from robot_value.topics import IMAGE, Numbers, Pictures
from robot_value.types import Camera, SpecMismatch

pytest.importorskip("rclpy")


def entry(kind: str, path: str, count: int, joints=()) -> Numbers:
    names = tuple(f"n{i}" for i in range(count))
    return Numbers("/t", kind, path, tuple(joints), names, ("1",) * count, 1.0)


@pytest.mark.parametrize(
    "kind, path, count",
    [
        ("std_msgs/msg/Float32", "data", 1),
        ("std_msgs/msg/Float64", "data", 1),
        ("std_msgs/msg/Float64MultiArray", "data", 5),
        ("geometry_msgs/msg/PoseStamped", "pose", 7),
        ("geometry_msgs/msg/TwistStamped", "twist", 6),
        ("geometry_msgs/msg/TwistStamped", "twist.angular", 3),
        ("geometry_msgs/msg/WrenchStamped", "wrench.force", 3),
        ("sensor_msgs/msg/JointState", "velocity", 4),
        ("sensor_msgs/msg/Imu", "angular_velocity_covariance", 9),
    ],
)
def test_numbers_come_back_bit_by_bit(kind, path, count):
    # mutation: orientation before position; w first; float32 through a decimal text
    about, numbers = entry(kind, path, count), np.random.default_rng(count).normal(size=count).astype(np.float32)
    message = message_type(kind)()
    write_numbers(message, {about: numbers})
    np.testing.assert_array_equal(extract(about, message), numbers)


def test_several_entries_of_one_joint_state_share_its_names():
    # mutation: the second entry's names replace the first's; its numbers wipe out the first's
    kind = "sensor_msgs/msg/JointState"
    arm, gripper = entry(kind, "position", 2, ["b", "a"]), entry(kind, "position", 1, ["g"])
    speed = entry(kind, "velocity", 2, ["a", "g"])
    values = {arm: np.float32([1, 2]), gripper: np.float32([3]), speed: np.float32([4, 5])}
    message = message_type(kind)()
    write_numbers(message, values)
    assert list(message.name) == ["b", "a", "g"] and len(message.velocity) == 3
    for about, numbers in values.items():
        np.testing.assert_array_equal(extract(about, message), numbers)


def test_a_commands_message_is_not_a_measurement():
    # mutation: publish on a controller's topic in replay
    about = entry("trajectory_msgs/msg/JointTrajectory", "positions", 1, ["a"])
    with pytest.raises(MessageError, match="measurements"):
        write_numbers(message_type(about.type)(), {about: np.float32([1])})


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "png"])
def test_pixels_come_back_bit_by_bit(encoding):
    # mutation: channels in the wrong order; transparent pixels; a lossy codec
    kind = "sensor_msgs/msg/CompressedImage" if encoding == "png" else IMAGE
    about = Pictures("/c", kind, Camera("c", 6, 7), encoding, 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    pixels = pixels[..., :1].repeat(3, 2) if encoding == "mono8" else pixels
    message = message_type(kind)()
    write_image(message, about, pixels)
    np.testing.assert_array_equal(extract(about, message), pixels)


@pytest.mark.parametrize("kind, encoding", [(IMAGE, "mono8"), ("sensor_msgs/msg/CompressedImage", "jpeg")])
def test_an_encoding_that_would_change_pixels_is_refused(kind, encoding):
    # mutation: send jpeg
    about = Pictures("/c", kind, Camera("c", 4, 5), encoding, 1.0)
    with pytest.raises(MessageError, match="expected"):
        write_image(message_type(kind)(), about, np.arange(60, dtype=np.uint8).reshape(4, 5, 3))


def test_a_header_is_read_without_the_message():
    # mutation: frame_id with its final zero; nanoseconds alone
    from rclpy.serialization import serialize_message

    message = message_type("sensor_msgs/msg/JointState")(name=["a"], position=[1.0])
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = 3, 5, "12:7"
    assert header(serialize_message(message)) == (3_000_000_005, "12:7")
    message.header.frame_id = ""
    assert header(serialize_message(message)) == (3_000_000_005, "")
    assert is_stamped(type(message)) and not is_stamped(message_type("std_msgs/msg/Float32"))
    with pytest.raises(ValueError, match="nobody_msgs"):
        message_type("nobody_msgs/msg/Nothing")


def test_a_playback_says_what_the_episode_holds_and_who_acted():
    # mutation: the number instead of the seed; a human's step as the policy's; the state's dims by entry order
    source = np.array([0, 2, 1, 0], np.uint8)
    episode = make_episode(TOPICS.spec, steps=4, source=source, provenance={"seed": 31}, terminated=False)
    played = Playback(episode, TOPICS, 6)
    assert played.start(9) == {"event": "start", "episode": 6, "seed": 31, "task": "task 0", "time": 9}
    assert played.end(9)["event"] == "stop" and played.last == 4
    said = dict(played.observation(2, lambda kind: message_type(kind)()))
    np.testing.assert_array_equal(extract(TOPICS.state[0], said["/joint_states"]), episode.states[2])
    np.testing.assert_array_equal(extract(TOPICS.cameras[0], said["/wrist"]), episode.images["wrist"][2])
    assert [played.executed(k, k, 0).source for k in range(4)] == ["policy", "human", "human", "policy"]
    assert played.executed(1, 2, 3).schema == SCHEMA and played.executed(1, 2, 3).start == 3
    with pytest.raises(SpecMismatch):
        Playback(make_episode(TOPICS.spec.choose(dt=1.0)), TOPICS, 0)


def test_what_is_played_is_a_store_or_a_bag(tmp_path):
    # mutation: an empty store where there is nothing; only stores
    with EpisodeStore.create(tmp_path / "store", TOPICS.spec) as store:
        name = store.append(make_episode(TOPICS.spec))
    assert open_log(tmp_path / "store", "").names() == [name]
    write_bag(tmp_path / "bag", recording(0.5))
    (tmp_path / "t.yaml").write_text(BAG)
    log = open_log(tmp_path / "bag", str(tmp_path / "t.yaml"))
    assert log.spec.state_dim == 3 and len(log.read(log.names()[0])) >= 5
    with pytest.raises(ValueError, match="expected an episode store or a bag"):
        open_log(tmp_path, "")
