"""`robot-value robot check`: each thing that is wrong with an arm's topics is named, and a sound arm passes."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace as Message

import draccus
import learning_fakes
import numpy as np
import pytest
from PIL import Image

from robot_value import checkpoint, cli, components, topics
from robot_value.commands import robot
from robot_value.deploy import robot_check
from robot_value.deploy.robot_check import FAIL, OK, WARN, Arrival, End, Heard

ROOT = Path(__file__).resolve().parent.parent
MEANING = topics.parse(
    {
        "rate": 20.0,
        "max_skew": 0.05,
        "state": [
            {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "joints": ["a", "b"], "unit": "rad"}
            | {"max_age": 0.1}
        ],
        "action": [
            {"name": "arm", "topic": "/arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory"}
            | {"joints": ["b", "a"], "kind": "joint", "unit": "rad", "low": [-1, -2], "high": [1, 2], "max_age": 0.2}
        ],
        "cameras": [
            {"name": "wrist", "topic": "/wrist", "type": "sensor_msgs/msg/Image", "height": 4, "width": 6}
            | {"encoding": "bgr8", "max_age": 0.1}
        ],
        "success": {"topic": "/success", "type": "std_msgs/msg/Bool"},
    }
)
MS = 1_000_000


def arrivals(hertz, seconds=2.0, late=0, stamps=0):
    """Regular ones from t = 1 s on; `late` ns on the way, `stamps` ns added to the headers."""
    return [
        Arrival(t + late, 10**18 + t + stamps, 10**18 + t + late)
        for t in (10**9 + np.arange(0, seconds, 1 / hertz) * 1e9).astype(np.int64).tolist()
    ]


def joints(a, b, name=("a", "b")):
    return Message(name=list(name), position=[a, b])


def picture(seed, encoding="bgr8"):
    data = np.random.default_rng(seed).integers(0, 256, 72).astype(np.uint8).tobytes()
    return Message(height=4, width=6, step=18, encoding=encoding, data=data)


@pytest.fixture
def heard():
    """A sound arm."""
    kinds, found = MEANING.types, {}
    for topic, kind in kinds.items():
        ends = [End("/driver", kind, topic != "/wrist")]
        found[topic] = Heard(ends if topic != "/arm/joint_trajectory" else (), ends)
    found["/joint_states"].arrivals = arrivals(100)
    found["/joint_states"].messages = [joints(0.1, 0.2), joints(0.1, 0.3)]
    found["/wrist"].arrivals = arrivals(30, late=8 * MS)
    found["/wrist"].messages = [picture(0), picture(1)]
    return found


def said(check, heard, about=None):
    """[(level, text)] of one check, of one subject."""
    lines = list(check(MEANING, heard))
    return [(line.level, line.text) for line in lines if about in (None, line.about)]


def test_a_sound_arm_passes_every_check(heard):
    # mutation: any level turned round
    for check in robot.CHECKS:
        assert {level for level, _ in said(check, heard)} == {OK}, check
    lines, seen = robot_check.pictures(MEANING, heard)
    assert [line.level for line in lines] == [OK] and seen["wrist"].shape == (4, 6, 3)


def test_topics_that_nobody_publishes_or_listens_to_are_named(heard):
    # mutation: look at subscribers of inputs
    heard["/joint_states"].publishers = heard["/success"].publishers = ()
    heard["/arm/joint_trajectory"].subscribers = ()
    assert said(robot_check.wiring, heard, "/joint_states")[0][0] == FAIL
    assert said(robot_check.wiring, heard, "/success")[0][0] == WARN  # it comes when it comes
    level, text = said(robot_check.wiring, heard, "/arm/joint_trajectory")[0]
    assert level == FAIL and "no controller listens" in text


def test_another_type_and_another_commander_are_named(heard):
    # mutation: compare no types; allow every node
    heard["/wrist"].publishers = [End("/camera", "sensor_msgs/msg/CompressedImage", False)]
    kind = MEANING.types["/arm/joint_trajectory"]
    heard["/arm/joint_trajectory"].publishers = [End("/robot_value/guard", kind, True), End("/moveit", kind, True)]
    assert "got sensor_msgs/msg/CompressedImage" in said(robot_check.wiring, heard, "/wrist")[0][1]
    level, text = said(robot_check.wiring, heard, "/arm/joint_trajectory")[0]
    assert level == FAIL and "/moveit" in text and "/robot_value/guard" not in text


def test_a_slow_and_a_stuttering_topic_are_told_apart(heard):
    # mutation: the mean gap instead of the longest
    heard["/joint_states"].arrivals = arrivals(15)
    assert said(robot_check.rates, heard, "/joint_states")[0][0] == WARN
    heard["/joint_states"].arrivals = arrivals(100, 1.0) + arrivals(100, 1.0, late=1200 * MS)
    level, text = said(robot_check.rates, heard, "/joint_states")[0]
    assert level == FAIL and "longest gap 210 ms" in text
    assert said(robot_check.freshness, heard)[0][0] == FAIL


def test_clocks_that_differ_are_named(heard):
    # mutation: stamp - wall instead of wall - stamp
    heard["/wrist"].arrivals = arrivals(30, stamps=300 * MS)
    level, text = said(robot_check.clocks, heard, "/wrist")[0]
    assert level == FAIL and "0.300 s in the future" in text
    assert "max_skew stamps spread" in said(robot_check.freshness, heard)[0][1]


def test_messages_that_say_something_else_are_refused_with_the_reason(heard):
    # mutation: leave refused ones out silently
    heard["/joint_states"].messages = [joints(0.0, np.nan), joints(0.5, 0.0), joints(0.0, 0.0, ("a", "c"))]
    assert said(robot_check.numbers, heard, "/joint_states")[0][0] == FAIL
    assert said(robot_check.numbers, heard, "a")[0][1].startswith("+0.5000 rad")
    heard["/wrist"].messages = [picture(0, "rgb8")]
    lines, seen = robot_check.pictures(MEANING, heard)
    assert lines[0].level == FAIL and "expected encoding bgr8" in lines[0].text and not seen


def test_a_joint_outside_its_own_limits_is_found_by_name(heard):
    # mutation: limits by position instead of by joint: b may go to 1 only, and a to 2
    heard["/joint_states"].messages = [joints(1.5, 1.5)]
    assert said(robot_check.numbers, heard, "a")[0][0] == OK and said(robot_check.numbers, heard, "b")[0][0] == FAIL
    heard["/joint_states"].messages = [joints(0.0, 0.0, ("b", "a"))]
    assert "another order (b, a)" in said(robot_check.numbers, heard, "/joint_states")[0][1]


def test_a_dark_and_a_frozen_camera_are_seen(heard):
    # mutation: compare the last frame with itself
    heard["/wrist"].messages = [picture(0)] * 3
    assert "every frame is the same" in robot_check.pictures(MEANING, heard)[0][0].text
    heard["/wrist"].messages = [Message(**vars(picture(0)) | {"data": bytes(72)})]
    assert robot_check.pictures(MEANING, heard)[0][0].level == WARN


def test_a_checkpoint_for_another_robot_is_named_field_by_field():
    # mutation: wanted and spec swapped
    spec = MEANING.spec
    assert [line.level for line in robot_check.contract(spec, "policy", spec.choose(horizon=8))] == [OK]
    other = dataclasses.replace(spec, state_names=("b", "a"), dt=0.1)
    lines = list(robot_check.contract(spec, "policy", other))
    assert {line.level for line in lines} == {FAIL} and len(lines) == 2
    assert "expected ('b', 'a'), got ('a', 'b') from this robot" in lines[1].text


@pytest.mark.parametrize(("slowest", "level"), [(0.1, OK), (0.3, WARN), (0.5, FAIL)])
def test_latency_is_judged_by_the_time_that_the_steps_take(slowest, level):
    # mutation: the median
    assert robot_check.latency([0.01] * 10 + [slowest] * 10, execute=8, dt=0.05).level == level


def test_a_joint_moved_by_hand_is_known_by_order_and_sign():
    # mutation: no abs in argmax
    names = ("a", "b")
    assert robot_check.judged(names, 0, np.array([0.3, 0.01])).level == OK
    assert "sign" in robot_check.judged(names, 0, np.array([-0.3, 0.01])).text
    assert "b moved instead" in robot_check.judged(names, 0, np.array([0.02, -0.4])).text
    assert "nothing moved" in robot_check.judged(names, 1, np.array([0.02, -0.04])).text


def test_only_commanded_joints_are_asked_for():
    # mutation: ask for every state dim
    asked, at = [], iter(np.array([[0, 0], [0.2, 0], [0, 0], [0, -0.2]]))
    lines = list(robot_check.walk(MEANING, lambda: next(at), asked.append))
    assert [(line.about, line.level) for line in lines] == [("a", OK), ("b", FAIL)]
    assert len(asked) == 4 and "a" in asked[1]


def test_joints_whose_commands_carry_no_names_are_checked_by_the_names_of_the_file():
    # mutation: joints of JointTrajectory only, so that nothing of a UR5e is looked at
    ur5e = topics.load(ROOT / "launch/params/ur5e_topics.yaml")
    names = ur5e.state[0].joints
    position = [0.0, 0.0, 3.5, 0.0, 6.0, 0.0, 0.4]  # the elbow may go to 3.09
    heard = {"/joint_states": Heard(messages=[Message(name=list(names), position=position)])}
    found = {line.about: line for line in robot_check.numbers(ur5e, heard)}
    assert [name for name in names if found[name].level == FAIL] == ["elbow_joint"]
    assert "expected -3.09 to 3.09" in found["elbow_joint"].text
    asked, at = [], iter([row for i in range(6) for row in (np.zeros(7), 0.2 * np.eye(7)[i])])
    lines = list(robot_check.walk(ur5e, lambda: next(at), asked.append))
    assert [(line.about, line.level) for line in lines] == [(name, OK) for name in names[:6]] and len(asked) == 12


def test_an_arm_whose_actions_name_no_joint_is_not_passed_in_silence():
    # mutation: no line; names of whatever is no joint count as joints
    (part,) = MEANING.parts
    twist = dataclasses.replace(MEANING.action[0], joints=(), names=("a", "b"))
    meaning = dataclasses.replace(MEANING, action=(twist,), parts=(dataclasses.replace(part, kind="other"),))
    assert [(line.about, line.level) for line in robot_check.walk(meaning, None, None)] == [("move", WARN)]


# -- the command, on the simulated arm ---------------------------------------------------------------------------------


def save(folder, kind, name, spec, **config):
    """A tiny model for `spec`, as training would leave it."""
    made, statistics = components.load(kind, name).Config(**config), learning_fakes.statistics(spec)
    tensors = made.build(spec, statistics).state_dict()
    words = {"kind": kind, "name": name, "config": draccus.encode(made), "step": 1, "statistics": statistics}
    checkpoint.save(folder, **words, spec=spec, tensors=tensors)
    return folder


@pytest.fixture
def arm(tmp_path, monkeypatch):
    """The simulated arm's real node; the command runs in this process, in the graph's domain."""
    pytest.importorskip("rclpy")
    from ros_graph import Graph

    text = (ROOT / "launch/params/simulated_panda_first_order_topics.yaml").read_text()
    file = tmp_path / "topics.yaml"
    file.write_text(
        text.replace("max_age: 0.05", "max_age: 2.0").replace("max_age: 0.2", "max_age: 2.0")
    )  # busy machines
    monkeypatch.chdir(tmp_path)
    with Graph(tmp_path) as graph:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
        graph.wait_state(graph.start("simulated_arm_node", {"topics": str(file)}))
        yield f"--topics={file}"


def test_the_simulated_arm_passes_and_its_picture_is_what_a_policy_would_see(arm, tmp_path, capsys):
    # mutation: save BGR; exit code of the number of warnings
    code = cli.main(["robot", "check", arm, "--seconds=1.5", f"--out={tmp_path / 'seen'}"])
    text = capsys.readouterr().out
    assert code == 0, text
    assert "0 to repair" in text and "panda_joint7: +" in text and "ticks: 0 of" in text
    with Image.open(tmp_path / "seen" / "front.png") as image:
        assert image.size == (32, 32) and np.ptp(np.asarray(image)) > 100


def test_a_policy_and_a_critic_for_this_arm_are_timed_and_others_are_refused(arm, tmp_path, capsys, monkeypatch):
    # mutation: contract left out of the command
    spec = topics.load(arm.removeprefix("--topics=")).spec.choose(horizon=8, n_obs_steps=2)
    monkeypatch.setattr(robot, "DECISIONS", 2)
    policy = save(tmp_path / "policy", "policies", "flow", spec, width=8, depth=1)
    critic = save(tmp_path / "critic", "critics", "iql", spec, members=1)
    models = [f"--policy={policy}", f"--critic={critic}", "--n=2"]
    code = cli.main(["robot", "check", arm, "--seconds=1.0", *models])
    text = capsys.readouterr().out
    assert "policy: was trained for this robot" in text and "critic: was trained" in text, text
    assert "decision: p50" in text and "for 8 steps of 50 ms" in text
    assert code == ("FAIL" in text)  # a busy machine is slow, and that is what would be said
    other = save(tmp_path / "other", "policies", "flow", learning_fakes.spec(), width=8, depth=1)
    code = cli.main(["robot", "check", arm, "--seconds=0.5", f"--policy={other}"])
    text = capsys.readouterr().out
    assert code == 1 and "FAIL  policy: " in text and "not timed" in text


def test_without_topics_the_command_says_what_it_needs(capsys):
    assert cli.main(["robot", "check"]) == 2 and "--topics" in capsys.readouterr().err
    assert cli.main(["robot", "czech"]) == 2 and "did you mean 'check'" in capsys.readouterr().err


def test_a_joints_speed_is_no_position(heard):
    # mutation: every number that bears a joint's name is one; the hand's speed is the largest change
    position = MEANING.state[0]
    speed = dataclasses.replace(position, path="velocity", names=("a.velocity", "b.velocity"), units=("rad/s",) * 2)
    meaning = dataclasses.replace(MEANING, state=(position, speed))
    heard["/joint_states"].messages = [Message(name=["a", "b"], position=[0.0, 0.0], velocity=[9.0, 9.0])]
    lines = {line.about: line for line in robot_check.numbers(meaning, heard)}
    assert {line.level for line in lines.values()} == {OK} and lines["b.velocity"].text.startswith("+9.0000 rad/s")
    asked, at = [], iter(np.array([[0, 0, 0, 0], [0.2, 0, 0.9, 0], [0, 0, 0, 0], [0, 0.2, 0, 0.9]]))
    lines = list(robot_check.walk(meaning, lambda: next(at), asked.append))
    assert [(line.about, line.level) for line in lines] == [("a", OK), ("b", OK)] and len(asked) == 4
