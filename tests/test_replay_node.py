"""A recorded episode played through topics: who decides on it over ROS decides what LoggedRobot's steerer decides."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from point_topics import SPEC, TOPICS, YAML, play, steerer
from recorded import make_episode
from ros_graph import Graph

from robot_value import wire
from robot_value.episodes import EpisodeStore
from robot_value.loop import run_episodes
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.topics import load
from robot_value.types import Observation

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
pytest.importorskip("rclpy")


class Listener:
    """Steering as far as replay knows it: sees ticks, says so, and decides every 4 steps."""

    def __init__(self, graph, lockstep):
        from std_msgs.msg import Float64MultiArray, String, UInt8MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import RECORD

        self.steerer, self.decisions, self.executed, self.kind = steerer(), {}, {}, UInt8MultiArray
        self.lockstep, self.about, self.history, self.tick = lockstep, None, [], 0
        self.steps = graph.publisher(UInt8MultiArray, "step", RECORD)
        self.events = graph.listen(String, "episode", 50, self.on_event)
        self.commands = graph.listen(JointTrajectory, "executed", RECORD, self.on_executed)
        self.states = graph.listen(Float64MultiArray, "/state", RECORD, self.on_state)

    def on_event(self, message):
        about = json.loads(message.data)
        if about["event"] == "start":
            self.about, self.history, self.tick = about, [], 0
            self.steerer.reset()

    def on_executed(self, message):
        plan = wire.parse_plan(message, ["vx", "vy"])
        self.executed[plan.about.episode, plan.about.step] = plan

    def on_state(self, message):
        """Messages of /state come in order; the first after a start is tick 0."""
        if self.about is None:
            return
        k, state = self.tick, np.array(message.data, np.float32)
        self.history.append(state)
        self.tick += 1
        if k % 4 == 0:
            seen = [self.history[max(k - 1, 0)], state]
            decision = self.steerer(observed(np.stack(seen), k, self.about["seed"]))
            self.decisions[self.about["seed"], k] = decision
        now = 0 if self.lockstep else time.monotonic_ns()
        about = {"episode": self.about["episode"], "step": k, "time": now, "used": {}, "frames": {}}
        self.steps.publish(self.kind(data=wire.pack(about, {"state": state})))


def observed(history, step, episode) -> Observation:
    return Observation(
        state=history[None],
        images={},
        task=("",),
        time=np.zeros(1),
        step=np.array([step]),
        episode=np.array([episode]),
        pending=np.zeros((1, 0, 2), np.float32),
        committed=np.zeros(1, np.int64),
    )


class Notes:
    wants_episodes = False

    def __init__(self):
        self.decisions = {}

    def on_decision(self, observation, decision, outcome):
        self.decisions[int(observation.episode[0]), int(observation.step[0])] = decision


@pytest.mark.parametrize("lockstep", [True, False])
def test_decisions_over_topics_are_those_of_the_offline_replay_bit_by_bit(tmp_path, lockstep):
    # mutation: a tick too few; states through decimal texts; the number instead of the seed; executed one step late
    torch.set_num_threads(1)
    store = play(tmp_path / "store", seeds=(11, 4, 7))
    offline = Notes()
    run_episodes(LoggedRobot(store, n_obs_steps=2, every=4), steerer(), watchers=(offline,), seeds=range(3))
    (tmp_path / "topics.yaml").write_text(YAML)
    with Graph(tmp_path) as graph:
        listener = Listener(graph, lockstep)
        parameters = {"topics": str(tmp_path / "topics.yaml"), "store": str(store.path), "episode": "all"}
        node = graph.start("replay_node", parameters | {"lockstep": lockstep, "speed": 4.0})
        ends = lambda m, n: json.loads(m.data)["event"] != "start" and json.loads(m.data)["episode"] == n  # noqa: E731
        for number in range(3):
            listener.events.wait(lambda m, n=number: ends(m, n), timeout=60)
        assert node.end(signal.SIGTERM, timeout=20) == 0
    assert len(offline.decisions) > 8
    for key, decision in offline.decisions.items():
        for name in ("candidates", "value", "chunk", "index"):
            np.testing.assert_array_equal(getattr(decision, name), getattr(listener.decisions[key], name))
    for number, name in enumerate(store.names()):
        episode = store.read(name)
        told = [listener.executed[number, k] for k in range(len(episode))]
        np.testing.assert_array_equal(np.stack([plan.actions[0].astype(np.float32) for plan in told]), episode.actions)
    assert TOPICS.spec == SPEC and EpisodeStore.open(store.path).verify() == []


def test_the_real_steering_node_decides_on_a_played_log_what_it_decides_offline(tmp_path):
    # mutation: images as bgr; a tick's state with another tick's image; seeds by counting
    import bench_one_loop as bench  # its arm, checkpoints and comparisons
    from std_msgs.msg import String, UInt8MultiArray

    from robot_value.ros_nodes.managed import RECORD

    site = bench.Site.make(tmp_path, 20)
    mapping = load(site.topics)
    with EpisodeStore.create(tmp_path / "episodes", mapping.spec) as store:
        for seed in (901, 17):
            store.append(make_episode(mapping.spec, steps=18, seed=seed, provenance={"seed": seed}))
    names = store.names()
    common = {"topics": str(site.topics), "lockstep": True}
    with Graph(tmp_path) as graph:
        decided = graph.listen(UInt8MultiArray, "decision", RECORD)
        events = graph.listen(String, "episode", 50)
        models = {"policy": str(site.policy), "critic": str(site.critic), "n": bench.N, "mode": "shadow"}
        steering = graph.start("steering_node", {**common, **models})
        graph.wait_state(steering, timeout=60)
        graph.start("replay_node", {**common, "store": str(store.path), "episode": "all"})
        last = lambda m: json.loads(m.data)["event"] == "success" and json.loads(m.data)["episode"] == 1  # noqa: E731
        events.wait(last, timeout=60)
    online = [wire.unpack_decision(message.data) for _, message in decided.messages]
    offline = [decision for each in bench.from_the_log(site, names) for decision in each]
    assert len(offline) == 10 and bench.lines_that_differ(offline, online) == []
