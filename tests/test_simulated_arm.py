"""The simulated arm: what stands behind its topics, its files of topics, and that its lock-step changes no bit."""

import json
import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import contracts
import numpy as np
import pytest
from ros_graph import Graph

from robot_value import topics, wire
from robot_value.deploy import topics_writer
from robot_value.deploy.lookout import Lookout
from robot_value.deploy.simulated_arm import SimulatedArm
from robot_value.resampling import Received
from robot_value.sim.first_order_robot import FASTEST, GOAL, HOME, Config, count_of, counted
from robot_value.sim.robosuite_robot import Config as Robosuite
from robot_value.types import SpecMismatch

PARAMS = Path(__file__).resolve().parents[1] / "launch" / "params"
FIRST_ORDER, LIFT = PARAMS / "simulated_panda_first_order_topics.yaml", PARAMS / "simulated_panda_topics.yaml"
MS = 1_000_000  # ns
HOME_CLOSED = np.append(HOME, 1.0)
ARM, GRIPPER = "/joint_trajectory_controller/joint_trajectory", "/gripper_controller/commands"
NAMES = [f"panda_joint{i}" for i in range(1, 8)]


@pytest.fixture(scope="module")
def lift():
    """The simulator of LIFT, with a small camera."""
    simulator = Robosuite(control="joint_absolute", cameras=("agentview",), camera_size=32).simulator()
    yield simulator
    simulator.close()


def arm(timeout=0.04, **settings):
    simulator = Config(control_freq=100, **settings).simulator()
    made = SimulatedArm(simulator, topics_writer.topics_of(simulator.spec), timeout)
    made.reset("", 3)
    return made


def trajectory(*rows, names=NAMES, dt=0.02):
    """A JointTrajectory as any library has it; row i is due at (i + 1) dt."""
    due = [SimpleNamespace(sec=0, nanosec=round((i + 1) * dt * 1e9)) for i in range(len(rows))]
    points = [SimpleNamespace(positions=row, time_from_start=when) for row, when in zip(rows, due, strict=True)]
    return SimpleNamespace(joint_names=list(names), points=points)


def tell(made, time, message, topic=ARM):
    made.hear(topic, Received(time, time, lambda: message))


# -- physics and commands, without ROS ---------------------------------------------------------------------------------


# mutation: in SimulatedArm.hear leave _notice_pause out, or in tick.
@pytest.mark.parametrize("first", ["command", "tick"])
def test_after_a_pause_what_waited_is_not_played(first):
    made, later = arm(), 2000 * MS
    home = made.joints
    made.tick(0)
    if first == "tick":
        made.tick(later)
    assert not made.hear(ARM, Received(later, later, lambda: trajectory(home + 0.3)))
    made.tick(later + 10 * MS)
    assert not made.following and np.abs(made.joints - home).max() < 1e-3
    for k in range(2, 12):
        made.tick(later + k * 10 * MS)
    now = later + 120 * MS
    assert made.hear(ARM, Received(now, now, lambda: trajectory(home + 0.3)))
    made.tick(now)
    assert made.following and made.refused == 0


def test_a_joint_follows_its_target_with_its_lag_and_no_faster_than_it_can():
    # mutation: leave the velocity limit out, or forget dt in the share
    simulator = Config(control_freq=100, lag=0.05).simulator()
    start = simulator.reset("reach the pose", 1).state.astype(float)
    near, far = start.copy(), start.copy()
    near[0], far[1] = start[0] + 0.01, start[1] + 1.0
    moved = simulator.step(near).state
    assert moved[0] == pytest.approx(start[0] + 0.01 * (1 - math.exp(-0.01 / 0.05)), abs=1e-6)
    before = moved[1]
    assert simulator.step(far).state[1] == pytest.approx(before + FASTEST[1] * 0.01, abs=1e-6)


def test_the_first_order_arm_is_a_robot_like_any_other():
    # mutation: save_state without the step counter, or an expert that stops short of the goal
    robot = Config(cameras=("front",)).build(3, n_obs_steps=2)
    contracts.check_robot(robot, [4, 5, 6])
    simulator = Config().simulator()
    for seed in range(5):
        frame, expert, steps = simulator.reset("reach the pose", seed), simulator.expert(seed), 0
        while not frame.terminated and steps < simulator.max_steps:
            frame, steps = simulator.step(expert.action()), steps + 1
        assert frame.success and np.abs(frame.state[:7] - GOAL).max() <= 0.0201 and steps < 40


def test_pictures_say_how_many_steps_the_episode_has_had():
    # mutation: uint32, or a pattern over the count
    assert [count_of(counted(n, 8)) for n in (0, 1, 255, 256, 2**40)] == [0, 1, 255, 256, 2**40]
    assert not np.array_equal(counted(1, 8)[4:], counted(2, 8)[4:])
    made = arm(cameras=("front",))
    assert [count_of(made.tick(n).images["front"]) for n in range(3)] == [1, 2, 3]


def test_the_newest_command_is_followed_joint_by_joint_whatever_their_order():
    # mutation: take positions in the message's order
    made, target = arm(), np.array([-0.5, -0.25, 0.1, -1.5, 0.5, 1.3, 1.0])
    shuffled = [3, 0, 6, 1, 5, 2, 4]
    tell(made, 0, trajectory([0.0] * 7))
    for tick in range(400):
        tell(made, tick * MS, trajectory(target[shuffled].tolist(), names=np.array(NAMES)[shuffled]))
        made.tick(tick * MS)
    np.testing.assert_allclose(made.joints, target, atol=1e-4)


def test_of_a_trajectory_it_heads_for_the_point_that_is_due():
    # mutation: always the first, or always the last point
    made, rows = arm(timeout=1.0), [[0.0] * 7, [0.1] * 7, [0.2] * 7]
    rows = [[q if i != 3 else -1.0 - q for i, q in enumerate(row)] for row in rows]
    tell(made, 0, trajectory(*rows))
    for now, row in ((1, 0), (19, 0), (21, 1), (45, 2), (500, 2)):
        made.tick(now * MS)
        np.testing.assert_allclose(made._target[:7], rows[row])


def test_left_alone_it_holds_where_it_is_until_it_is_told_again():
    # mutation: keep the last target, or hold at the reset's pose
    made = arm(timeout=0.04)
    goal = made.joints + np.float32(0.5)
    tell(made, 0, trajectory(goal.tolist()))
    tell(made, 0, SimpleNamespace(data=[1.0]), GRIPPER)
    for now in range(0, 41, 10):
        made.tick(now * MS)
    assert made.following
    here = made.joints.copy()
    assert (here < goal - 0.1).all()
    for now in range(50, 600, 10):
        made.tick(now * MS)
    assert not made.following
    np.testing.assert_allclose(made.joints, here, atol=1e-6)
    assert made.frame.state[7] == pytest.approx(1.0, abs=0.01)  # a gripper that is not measured closes on
    tell(made, 600 * MS, trajectory(goal.tolist()))
    assert (made.tick(601 * MS).state[:7] > here).all()


@pytest.mark.parametrize(
    "message",
    [
        trajectory([math.nan] * 7),
        trajectory([0.0] * 6),
        trajectory([0.0] * 6, names=NAMES[:6]),
        trajectory([0.0] * 7, names=[*NAMES[:6], NAMES[0]]),
        trajectory(),
        SimpleNamespace(data=[0.0] * 7),
    ],
    ids=["not finite", "too short", "a joint missing", "a joint twice", "empty", "another type"],
)
def test_a_command_without_sense_is_counted_and_moves_nothing(message):
    # mutation: hear() without the try
    made = arm()
    before = made.joints.copy()
    tell(made, 0, message)
    made.tick(MS)
    assert made.refused == 1 and ARM in made.last_refused and not made.following
    np.testing.assert_array_equal(made.joints, before)


def test_the_physics_gets_what_a_fleet_would_give_it(monkeypatch):
    # mutation: no clip, or no float32, in step()
    made, got = arm(), []
    step = made.simulator.step
    monkeypatch.setattr(made.simulator, "step", lambda action: [got.append(action), step(action)][1])
    made.step(np.array([0.1, 99.0, -99.0, -1.0, 0.0, 1.0, 0.0, 0.3]))
    wanted = np.array([0.1, made.simulator.spec.high[1], made.simulator.spec.low[2], -1, 0, 1, 0, 0.3], np.float32)
    assert got[0].dtype == np.float32
    np.testing.assert_array_equal(got[0], wanted)


def test_pictures_are_drawn_of_the_state_that_was_shown_while_the_physics_goes_on():
    # mutation: draw without load_state, or take a second state while busy
    body, lookout = Config().simulator(), Lookout(Config(cameras=("a", "b")).simulator)
    body.reset("reach the pose", 0)
    for step in range(1, 6):
        body.step(HOME_CLOSED)
        lookout.show(body.save_state(), step)
        body.step(HOME_CLOSED)
        while (seen := lookout.take()) is None:
            time.sleep(1e-3)
        assert seen[1] == step and {name: count_of(image) for name, image in seen[0].items()} == {
            "a": 2 * step - 1,
            "b": 2 * step - 1,
        }
    assert lookout.take() is None
    lookout.close()


def test_while_it_draws_it_takes_no_other_state():
    # mutation: show() without looking at busy
    go, made = threading.Event(), Config(cameras=("a",)).simulator()
    slow = SimpleNamespace(reset=made.reset, tasks=made.tasks, load_state=made.load_state, close=made.close)
    slow.look = lambda: [go.wait(), made.look()][1]
    body, lookout = Config().simulator(), Lookout(lambda: slow)
    body.reset("reach the pose", 0)
    for note in ("first", "second"):
        lookout.show(body.save_state(), note)
        body.step(HOME_CLOSED)
    assert lookout.busy and lookout.take() is None
    go.set()
    while (seen := lookout.take()) is None:
        time.sleep(1e-3)
    assert seen[1] == "first" and count_of(seen[0]["a"]) == 0
    lookout.close()
    assert lookout.take() is None


def test_a_renderer_that_fails_is_heard_of():
    # mutation: let the thread die quietly
    def no_renderer():
        raise RuntimeError("no EGL here")

    with pytest.raises(RuntimeError, match="no EGL here"):
        Lookout(no_renderer)


# -- files of topics ---------------------------------------------------------------------------------------------------


def test_the_shipped_files_are_what_the_writer_writes(capsys, lift):
    # mutation: another max_age in the writer
    def below_the_comment(file):
        return "".join(line for line in file.open() if not line.startswith("#"))

    topics_writer.main(["--robot.cameras", "front"])
    assert capsys.readouterr().out == below_the_comment(FIRST_ORDER)
    assert topics_writer.text(topics_writer.arm_topics(lift.spec.choose(cameras=()))) == below_the_comment(LIFT)


def test_a_written_file_means_what_the_simulator_means(tmp_path):
    # mutation: limits rounded to three digits
    for made in (Config(cameras=("a", "b")), Config(control_freq=50)):
        spec = made.simulator().spec
        for commands in ("trajectory", "forward"):
            file = tmp_path / "topics.yaml"
            file.write_text(topics_writer.text(topics_writer.arm_topics(spec, "bgr8", commands)))
            assert topics.load(file).spec.differences(spec) == []


def test_end_effector_deltas_have_no_joint_topics():
    # mutation: no check of the first part
    spec = Config().simulator().spec
    pose = spec.choose(parts=(spec.parts[1].__class__("arm", 0, 6, "pose", "1", (-1,) * 6, (1,) * 6),))
    with pytest.raises(ValueError, match="expected absolute joint positions first"):
        topics_writer.arm_topics(pose)


def test_topics_of_another_robot_are_refused():
    # mutation: no check in SimulatedArm
    with pytest.raises(SpecMismatch, match="the simulated arm does not match"):
        SimulatedArm(Config().simulator(), topics.load(LIFT), 0.04)


# -- the node, with ROS ------------------------------------------------------------------------------------------------


def lockstep(graph, parameters, seeds, actions):
    """Episodes over ROS, the probe being the guard: per seed (state, images) of steps 0..K; what /success said."""
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Bool, String
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from robot_value.ros_nodes.managed import EPISODES, RECORD

    mapping = topics.load(parameters["topics"])
    heard = {entry.topic: graph.listen(JointState, entry.topic, RECORD) for entry in mapping.state}
    heard |= {entry.topic: graph.listen(Image, entry.topic, RECORD) for entry in mapping.cameras}
    successes = graph.listen(Bool, "/success", RECORD)
    tell, executed = graph.publisher(String, "episode", EPISODES), graph.publisher(JointTrajectory, "executed", RECORD)
    graph.wait_state(graph.start("simulated_arm_node", {**parameters, "lockstep": True}), timeout=90)  # compiles MuJoCo
    for topic in heard.values():
        topic.wait_for_publisher()
    graph.wait_for_subscriber(tell), graph.wait_for_subscriber(executed)
    names = [name for entry in mapping.action for name in entry.names]

    def frame(episode, step):
        """What the messages of one step say, put together by hand."""
        wanted, state, images = f"{episode}:{step}", [], {}
        for entry in mapping.state:
            message = heard[entry.topic].wait(lambda m: m.header.frame_id == wanted)[1]
            assert message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec == pytest.approx(step / mapping.rate)
            state += [message.position[list(message.name).index(joint)] for joint in entry.joints]
        for entry in mapping.cameras:
            message = heard[entry.topic].wait(lambda m: m.header.frame_id == wanted)[1]
            images[entry.camera.name] = np.array(message.data, np.uint8).reshape(message.height, message.width, 3)
        return np.array(state), images

    played = []
    for episode, seed in enumerate(seeds):
        said = {"event": "start", "episode": episode, "seed": seed, "task": "", "time": time.monotonic_ns()}
        tell.publish(String(data=json.dumps(said)))
        frames = [frame(episode, 0)]
        for step, action in enumerate(actions):
            about = wire.About(step + 1, episode, step, 0, 0, 0, "")
            for stale in (step - 1, step):  # a command of another step moves nothing
                point = JointTrajectoryPoint(positions=action.astype(float).tolist())
                point.time_from_start.nanosec = round(1e9 / mapping.rate)
                message = JointTrajectory(joint_names=names, points=[point])
                message.header.frame_id = wire.header(about.__class__(**{**about.__dict__, "step": stale}))
                executed.publish(message)
            frames.append(frame(episode, step + 1))
        played.append(frames)
    return played, [message.data for _, message in successes.messages]


def directly(simulator, seed, actions):
    frames = [simulator.reset(simulator.tasks[0], seed)]
    return frames + [simulator.step(action) for action in actions]


def compare(played, wanted):
    for (state, images), frame in zip(played, wanted, strict=True):
        np.testing.assert_array_equal(state.astype(np.float32), frame.state)
        np.testing.assert_array_equal(state, frame.state.astype(np.float64))
        for name, image in frame.images.items():
            np.testing.assert_array_equal(images[name], image)


def test_lock_step_over_ros_is_the_simulator_to_the_bit(tmp_path):
    # mutation: step on any `executed`, bgr8 as rgb8, or positions sent as text
    pytest.importorskip("rclpy")
    simulator = Config(cameras=("front",)).simulator()
    simulator.reset(simulator.tasks[0], 8)
    rng, start = np.random.default_rng(0), simulator.position
    actions = (start + np.cumsum(rng.normal(0, 0.03, (30, 8)), 0)).astype(np.float32)
    actions = np.clip(actions, simulator.spec.low, simulator.spec.high)
    with Graph(tmp_path) as graph:
        played, successes = lockstep(graph, {"topics": str(FIRST_ORDER)}, [8, 9, 8], actions)
    for frames, seed in zip(played, [8, 9, 8], strict=True):
        compare(frames, directly(simulator, seed, actions))
    assert successes == [False] * 90


def test_lock_step_of_robosuite_with_a_camera_is_the_simulator_to_the_bit(tmp_path, lift):
    # mutation: the node at another control rate, or state through float16
    pytest.importorskip("rclpy")
    (tmp_path / "topics.yaml").write_text(topics_writer.text(topics_writer.arm_topics(lift.spec)))
    start = lift.reset(lift.tasks[0], 5).state[:7]
    ramp = np.linspace(0, 1, 8)[:, None]
    arm = start + ramp * np.array([0.2, 0.3, -0.1, 0.2, 0.1, -0.2, 0.3])
    actions = np.clip(np.hstack([arm, 2 * ramp - 1]), lift.spec.low, lift.spec.high).astype(np.float32)
    parameters = {"model": "robosuite", "settings": '{"control": "joint_absolute"}'}
    with Graph(tmp_path) as graph:
        played, _ = lockstep(graph, {**parameters, "topics": str(tmp_path / "topics.yaml")}, [5, 6], actions)
    for frames, seed in zip(played, [5, 6], strict=True):
        compare(frames, directly(lift, seed, actions))


def test_in_real_time_it_follows_logs_every_command_and_holds_when_they_end(tmp_path):
    # mutation: log after the check, or no timeout
    pytest.importorskip("rclpy")
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from robot_value.ros_nodes.managed import EPISODES, RECORD, SENSOR

    log = tmp_path / "commands.jsonl"
    with Graph(tmp_path) as graph:
        states, images = graph.listen(JointState, "/joint_states"), graph.listen(Image, "/front/image_raw", SENSOR)
        commands = graph.publisher(JointTrajectory, ARM, RECORD)
        episodes = graph.publisher(String, "episode", EPISODES)
        node = graph.start("simulated_arm_node", {"topics": str(FIRST_ORDER), "log": str(log), "rate": 100.0})
        graph.wait_state(node)
        graph.wait_for_subscriber(commands), graph.wait_for_subscriber(episodes)
        here = np.array(states.wait()[1].position)
        for i in range(40):
            point = JointTrajectoryPoint(positions=(here + 0.01 * (i + 1)).tolist())
            point.time_from_start.nanosec = 20 * MS
            commands.publish(JointTrajectory(joint_names=NAMES, points=[point]))
            time.sleep(0.02)
        bad = JointTrajectoryPoint(positions=[math.nan] * 7)
        commands.publish(JointTrajectory(joint_names=NAMES, points=[bad]))
        ended = time.monotonic_ns()
        rest = np.array(states.wait(since=ended + 300 * MS)[1].position)
        later = np.array(states.wait(since=ended + 600 * MS)[1].position)
        assert (rest > here + 0.2).all() and (rest < here + 0.401).all()
        np.testing.assert_allclose(later, rest, atol=1e-6)
        episodes.publish(
            String(
                data=json.dumps({"event": "start", "episode": 1, "seed": 7, "task": "", "time": time.monotonic_ns()})
            )
        )
        begins = Config().simulator().reset("reach the pose", 7).state[:7]
        states.wait(lambda m: np.abs(np.array(m.position) - begins).max() < 1e-6)
        assert len(images.messages) >= 10 and images.messages[-1][1].encoding == "rgb8"
        assert node.end() == 0
    lines = [json.loads(line) for line in log.open()]
    assert 20 < len(lines) <= 41 and math.isnan(lines[-1]["points"][0][0]) and lines[0]["names"] == NAMES
    read = [line["points"][0][0] for line in lines[:-1]]  # the newest only, when this machine is late: as it moves
    assert set(read) <= set(here[0] + 0.01 * np.arange(1, 41)) and (np.diff(read) > 0).all()
    assert (np.diff([line["time"] for line in lines]) > 0).all() and len(lines[0]["measured"]) == 7


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"topics": str(LIFT)}, "the simulated arm does not match"),
        ({"model": "second_order"}, "did you mean 'first_order'"),
        ({"settings": '{"lag": 0}'}, "lag above 0"),
        ({"rate": 12.5}, "expected a whole number of Hz, got 12.5"),
    ],
)
def test_what_it_cannot_simulate_it_refuses_to_configure(parameters, says):
    # mutation: catch nothing in _settings
    pytest.importorskip("rclpy")
    from robot_value.ros_nodes import simulated_arm_node as node

    with pytest.raises(ValueError, match=says):
        made, mapping = node._made(node.Config(**parameters))
        SimulatedArm(made.simulator(), mapping, 0.04)
