"""The recorder as a process: the probe is steering, guard, camera and operator at once."""

from __future__ import annotations

import json
import signal
import threading
import time

import numpy as np
import pytest
from recorded import assert_same, make_decision
from recordings import SCHEMA, YAML, action, pixels, state
from ros_graph import Graph, until

from robot_value import wire
from robot_value.episodes import EpisodeStore
from robot_value.types import EXPERT, HUMAN, POLICY

pytest.importorskip("rclpy")
SECOND = 1_000_000_000


class Robot:
    """Everything around the recorder."""

    def __init__(self, graph, topics_file, store, **parameters):
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Bool, Float32, String, UInt8MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import EPISODES, RECORD

        sensor = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.graph, self.store, self.seq = graph, store, 0
        topics_file.write_text(YAML)
        self.parameters = {"topics": str(topics_file), "store": str(store), "free": 0.0, "task": "lift", **parameters}
        self.publishers = {
            name: graph.publisher(kind, name, qos)
            for name, kind, qos in (
                ("step", UInt8MultiArray, RECORD),
                ("decision", UInt8MultiArray, RECORD),
                ("executed", JointTrajectory, RECORD),
                ("plan", JointTrajectory, RECORD),
                ("/command", JointTrajectory, 10),
                ("/joint_states", JointState, sensor),
                ("/wrist", Image, sensor),
                ("/reward", Float32, 10),
                ("/success", Bool, 10),
                ("episode", String, EPISODES),
            )
        }
        self.events = graph.listen(String, "episode", 50)
        self.health = graph.listen(DiagnosticArray, "/diagnostics", 10)
        self.process = None

    def begin(self):
        self.process = self.graph.start("recorder_node", self.parameters)
        self.graph.wait_state(self.process)
        given = {"steered": True, "guarded": True, "bags": "", **self.parameters}
        unheard = set() if given["steered"] else {"step", "decision"}
        unheard |= {"/joint_states"} if given["steered"] and not given["bags"] else set()
        unheard |= {"/command"} if given["guarded"] and not given["bags"] else set()
        for name in self.publishers.keys() - unheard:
            self.graph.wait_for_subscriber(self.publishers[name])
        return self

    def ask(self, event):
        from std_srvs.srv import Trigger

        answer = self.graph.call(Trigger, f"recorder/{event}")
        return answer.message if not answer.success else ""

    def start(self):
        """The number of the episode that begins."""
        since = time.monotonic_ns()
        assert self.ask("start") == ""
        self.began, message = self.events.wait(lambda m: '"start"' in m.data, since)
        return json.loads(message.data)["episode"]

    def say(self, name, data):
        from std_msgs.msg import Bool, Float32, String, UInt8MultiArray

        kind = {bool: Bool, float: Float32, str: String}.get(type(data), UInt8MultiArray)
        self.publishers[name].publish(kind(data=data))

    def image(self, k, episode=0):
        from sensor_msgs.msg import Image

        message = Image(height=4, width=5, step=15, encoding="bgr8", data=pixels(k)[..., ::-1].tobytes())
        message.header.stamp.sec, message.header.stamp.nanosec = 1 + episode, k
        self.publishers["/wrist"].publish(message)

    def joints(self, k):
        from sensor_msgs.msg import JointState

        message = JointState(name=["b", "c", "a"], position=state(k)[[1, 2, 0]].astype(float).tolist())
        message.header.stamp.sec, message.header.stamp.nanosec = 1, k
        self.publishers["/joint_states"].publish(message)

    def step(self, k, episode):
        about = {
            "episode": episode,
            "step": k,
            "time": time.monotonic_ns(),
            "used": {"/wrist": (1 + episode) * SECOND + k},
            "frames": {},
        }
        self.say("step", wire.pack(about, {"state": state(k)}))

    def trajectory(self, name, numbers, k, episode, source=wire.POLICY):
        from builtin_interfaces.msg import Duration
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        now, self.seq = time.monotonic_ns(), self.seq + 1
        times = [Duration(nanosec=10_000_000 * (i + 1)) for i in range(len(numbers))]
        points = [
            JointTrajectoryPoint(positions=np.asarray(row, float)[[2, 0, 1]].tolist(), time_from_start=at)
            for row, at in zip(numbers, times, strict=True)
        ]
        message = JointTrajectory(joint_names=["c", "a", "b"], points=points)
        message.header.frame_id = wire.header(wire.About(self.seq, episode, k, now, now, now, SCHEMA, source))
        self.publishers[name].publish(message)

    def play(self, episode, steps, human=()):
        """Ticks 0..steps of an episode, and what happens between them, 100 times a second."""
        for k in range(steps + 1):
            self.image(k, episode)
            self.step(k, episode)
            if k < steps:
                if k % 4 == 0:
                    self.say("decision", wire.pack_decision(made_at(k)))
                    self.trajectory("plan", [action(k + i) for i in range(4)], k, episode)
                time.sleep(0.004)
                self.trajectory("executed", [action(k)], k, episode, wire.HUMAN if k in human else wire.POLICY)
                time.sleep(0.006)

    def stored(self, count):
        until(lambda: (self.store / "zarr.json").exists() and len(names(self.store)) >= count, 10, f"{count} episodes")
        store = EpisodeStore.open(self.store)
        assert store.verify() == []
        return [store.read(name) for name in store.names()]


def names(path):
    return EpisodeStore.open(path).names()


def made_at(k):
    from dataclasses import replace

    return replace(make_decision(np.random.default_rng(k), 2), start_step=np.array([k]), seconds={"score": 0.25})


@pytest.fixture
def robot(tmp_path):
    with Graph(tmp_path) as graph:
        yield lambda **parameters: Robot(graph, tmp_path / "topics.yaml", tmp_path / "store", **parameters)


def test_an_episode_over_topics_is_stored_bit_by_bit_and_lies_in_a_bag(robot, tmp_path):
    # mutation: joints in the message's order; red and blue swapped; the human's steps shifted by one; no bag
    r = robot(bags=str(tmp_path / "bags")).begin()
    assert "no episode is running" in r.ask("stop")
    number = r.start()
    r.say("/reward", 1.0)  # before the first tick: of no step
    r.play(number, 12, human=(5, 6))
    r.say("step", b"garbage")
    r.say("episode", json.dumps({"event": "ended", "episode": number, "steps": 12, "why": "max_steps"}))
    (episode,) = r.stored(1)
    assert_same(episode.states, np.stack([state(k) for k in range(13)]))
    assert_same(episode.images["wrist"], np.stack([pixels(k) for k in range(13)]))
    assert_same(episode.actions, np.stack([action(k) for k in range(12)]))
    assert np.flatnonzero(episode.source).tolist() == [5, 6] and episode.task == "lift"
    assert_same(episode.decisions, tuple(made_at(k) for k in (0, 4, 8)))
    assert episode.provenance["versions"]["numpy"] == np.__version__ and episode.provenance["schema"] == SCHEMA
    assert episode.provenance["parameters"]["store"] == str(r.store) and episode.truncated
    refused = lambda m: any(v.key == "messages refused" and v.value == "1" for s in m.status for v in s.values)  # noqa: E731
    r.health.wait(refused)

    from rosbags.highlevel import AnyReader

    until(lambda: (tmp_path / "bags" / "episode_00000000" / "metadata.yaml").exists(), 5, "a finished bag")
    with AnyReader([tmp_path / "bags" / "episode_00000000"]) as bag:
        counts = {name: info.msgcount for name, info in bag.topics.items()}
    ours = {f"/robot_value/{name}": n for name, n in (("executed", 12), ("decision", 3), ("plan", 3), ("step", 14))}
    assert ours.items() <= counts.items() and counts["/wrist"] == 13 and counts["/reward"] == 1

    number = r.start()
    assert number == 1
    r.play(number, 4)
    r.say("/reward", 2.0)
    r.say("/success", True)
    time.sleep(0.05)
    r.step(5, number)  # the tick that ends the step in which it came; its picture is lost
    r.events.wait(lambda m: '"success"' in m.data)
    episode = r.stored(2)[1]
    assert episode.success is True and episode.terminated and len(episode) == 5 and not episode.final_observed
    assert episode.rewards.tolist() == [0, 0, 0, 0, 2]
    assert r.process.end(signal.SIGTERM, timeout=20) == 0


def test_sigterm_keeps_what_is_whole_and_sigkill_loses_only_the_running_episode(robot):
    # mutation: no finish() at deactivate; write into the store while the episode runs
    r = robot().begin()
    r.play(r.start(), 6)
    time.sleep(0.2)
    assert r.process.end(signal.SIGTERM, timeout=20) == 0
    (first,) = r.stored(1)
    assert len(first) >= 4 and first.truncated and "stopped" in first.provenance["ended_by"]
    assert_same(first.actions, np.stack([action(k) for k in range(len(first))]))
    r.begin()
    assert r.start() == 1
    r.play(1, 6)
    r.process.end(signal.SIGKILL)
    assert len(r.stored(1)) == 1
    r.begin()
    assert r.start() == 1  # the lost one's number
    r.play(1, 3)
    time.sleep(0.2)
    assert r.ask("stop") == "" and len(r.stored(2)[1]) >= 2


@pytest.mark.parametrize("guarded", [True, False])
def test_demonstrations_are_recorded_without_steering(robot, guarded):
    # mutation: wait for `step`; actions of the guard where there is none, or of the controllers where there is one
    r = robot(steered=False, guarded=guarded, source="expert", shortest=5).begin()
    values, started = [], threading.Event()
    operator = threading.Thread(target=lambda: (r.start(), started.set()))
    while len(values) < 60 or not started.is_set() or values[-60][0] < r.began:
        k = len(values)
        values.append((time.monotonic_ns(), state(k)))
        r.joints(k)
        r.image(k)
        r.trajectory("executed" if guarded else "/command", [action(k)], 0, 0, wire.HUMAN)
        if k == 10:
            operator.start()
        time.sleep(0.008)
    assert r.ask("success") == ""
    (episode,) = r.stored(1)
    rows = {tuple(row) for _, row in values}
    assert all(tuple(row) in rows for row in episode.states) and len(episode) > 20
    assert (episode.source == (HUMAN if guarded else EXPERT)).all() and episode.success is True
    assert {tuple(action(k)) for k in range(len(values))} >= {tuple(a) for a in episode.actions}


def test_an_arm_that_somebody_else_commands_is_recorded_as_steering_saw_it(robot):
    # mutation: hear the controllers' topics without steering only; actions of the guard's topic
    r = robot(guarded=False, source="policy").begin()
    number = r.start()
    for k in range(9):
        r.image(k, number)
        r.step(k, number)
        time.sleep(0.004)
        r.trajectory("/command", [action(k)], 0, 0)
        r.trajectory("executed", [action(90)], k, number, wire.HUMAN)
        time.sleep(0.05)  # until it is heard, on a busy machine, too
    r.say("episode", json.dumps({"event": "ended", "episode": number, "steps": 8, "why": "max_steps"}))
    (episode,) = r.stored(1)
    assert_same(episode.states, np.stack([state(k) for k in range(9)]))
    assert_same(episode.actions, np.stack([action(k) for k in range(8)]))
    assert (episode.source == POLICY).all()


def test_services_answer_in_every_state_and_a_wrong_configuration_is_one_line(robot, tmp_path):
    # mutation: serve while inactive; a traceback instead of a reason
    r = robot()
    r.parameters["autostart"] = False
    r.process = r.graph.start("recorder_node", r.parameters)
    r.graph.wait_state(r.process, "unconfigured")
    assert r.graph.change("recorder", "configure")
    assert "not active" in r.ask("start")
    assert r.graph.change("recorder", "activate") and r.ask("start") == ""
    assert r.graph.change("recorder", "deactivate") and "not active" in r.ask("stop")
    assert r.graph.change("recorder", "cleanup") and r.graph.change("recorder", "configure")
    wrong = [
        ({"store": ""}, "store: expected a path"),
        ({"topics": "/nowhere"}, "/nowhere"),
        ({"source": "ghost"}, "expected human, policy or expert"),
        ({"lockstep": True, "guarded": False}, "guarded: expected true in lock-step"),
        ({}, "expected one writer"),  # the first node holds the store
    ]
    started = [
        r.graph.start("recorder_node", {**r.parameters, **parameters, "autostart": True}, name=f"wrong{i}")
        for i, (parameters, _) in enumerate(wrong)
    ]
    for process, (_, said) in zip(started, wrong, strict=True):
        assert process.popen.wait(60) == 1 and said in process.said and "Traceback" not in process.said
