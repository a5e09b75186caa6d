"""Everybody around a guard node, played by the test: the arm, the policy, the human, the operator."""

import json
import threading
import time

import numpy as np
from rclpy.duration import Duration
from ros_graph import until
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import wire
from robot_value.ros_nodes.managed import COMMAND, LATCHED, RECORD, SENSOR
from robot_value.topics import load

TOPICS = """
rate: 20
max_skew: 0.05
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [a, b], unit: rad, max_age: 0.1}
action:
  - {name: arm, topic: /arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory, joints: [a, b], kind: joint,
     unit: rad, low: [-2, -2], high: [2, 2], max_age: 0.2}
  - {name: gripper, topic: /gripper/commands, type: std_msgs/msg/Float64MultiArray, names: [gripper], kind: gripper,
     unit: "1", low: 0, high: 1, max_age: .inf}
cameras: []
"""
NAMES, T, STEP = ("a", "b", "gripper"), 0.02, 0.05  # s, period of the guard and step of a plan
LIMITS = {"velocity": [1.0], "acceleration": [10.0], "jerk": [400.0]}
START = [0.3, -0.4]


class Rig:
    """An arm that is where it was told to be, and everybody else who speaks to the guard."""

    def __init__(self, folder, graph, lockstep=False):
        self.graph, self.lockstep = graph, lockstep
        self.topics = folder / "topics.yaml"
        self.topics.write_text(TOPICS)
        self.schema = wire.schema(load(self.topics).spec)
        self.where, self.alive, self.seq = list(START), True, 0
        self.ahead = None  # s, of the states' stamps; None: not stamped
        qos = RECORD if lockstep else SENSOR
        self.executed = graph.listen(JointTrajectory, "executed", RECORD)
        self.commands = graph.listen(JointTrajectory, "/arm/joint_trajectory", RECORD, self._obey)
        self.gripper = graph.listen(Float64MultiArray, "/gripper/commands", RECORD)
        self.states = graph.listen(String, "guard_state", LATCHED)
        self.state = graph.publisher(JointState, "/joint_states", qos)
        self.plans = graph.publisher(JointTrajectory, "plan", RECORD if lockstep else COMMAND)
        self.takeover = graph.publisher(JointTrajectory, "takeover", RECORD if lockstep else COMMAND)
        self.intervention = graph.publisher(Bool, "intervention", 10)
        self.estop = graph.publisher(Bool, "/estop", 10)

    def start(self, **more):
        config = {"topics": str(self.topics), "lockstep": self.lockstep, "estop_topic": "/estop", **LIMITS, **more}
        self.guard = self.graph.start("guard_node", config)
        if not self.lockstep:
            threading.Thread(target=self._live, daemon=True).start()
        self.graph.wait_state(self.guard, "active")
        for publisher in (self.state, self.plans, self.takeover, self.intervention, self.estop):
            self.graph.wait_for_subscriber(publisher)
        self.executed.wait_for_publisher()
        return self

    def say(self, positions, frame=""):
        message = JointState(name=["b", "a"], position=[float(x) for x in positions[::-1]])
        message.header.frame_id = frame
        if self.ahead is not None:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(time.time_ns() + self.ahead * 10**9, 10**9)
        self.state.publish(message)

    def plan(self, actions, velocities=None, source=wire.POLICY, **about):
        """From now on; one row per 50 ms."""
        now, self.seq = time.monotonic_ns(), self.seq + 1
        said = {"episode": 1, "step": 0, "start": 0, "observed": now, "created": now} | about
        message = JointTrajectory(joint_names=list(NAMES))
        message.header.frame_id = wire.header(wire.About(seq=self.seq, schema=self.schema, source=source, **said))
        for i, row in enumerate(np.asarray(actions, float).tolist()):
            point = JointTrajectoryPoint(positions=row, time_from_start=Duration(seconds=(i + 1) * STEP).to_msg())
            point.velocities = [] if velocities is None else np.asarray(velocities, float)[i].tolist()
            message.points.append(point)
        (self.takeover if source == wire.HUMAN else self.plans).publish(message)
        return now

    def wave(self, steps=20, height=0.15, **about):
        """Joint a goes up and comes back, smoothly; the gripper closes."""
        t = np.arange(1, steps + 1) / steps
        actions, velocities = np.zeros((2, steps, 3))
        actions[:, 0] = self.where[0] + height / 2 * (1 - np.cos(2 * np.pi * t))
        velocities[:, 0] = height * np.pi * np.sin(2 * np.pi * t) / (steps * STEP)
        actions[:, 1], actions[:, 2] = self.where[1], 1.0
        return self.plan(actions, velocities, **about)

    def moving(self):
        """A wave under way, at full speed soon."""
        since = self.wave()
        while not any(about.source == wire.POLICY for about in self.path(since)[0]):
            if time.monotonic_ns() - since > 10**9:  # a guard that was stalled drops its plans
                since = self.wave()
            time.sleep(0.01)
        time.sleep(0.2)

    def ready(self):
        """Held without a fault, and motion is wanted."""
        self.alive = True
        self.estop.publish(Bool(data=False))
        self.intervention.publish(Bool(data=False))
        self.call(SetBool, "enable", SetBool.Request(data=False))
        until(lambda: self.call(Trigger, "reset") == "", 5, "rest and fresh states")
        assert self.call(SetBool, "enable", SetBool.Request(data=True)) == ""
        return time.monotonic_ns()

    def call(self, kind, name, request=None):
        answer = self.graph.call(kind, f"guard/{name}", request)
        return "" if answer.success else answer.message

    def said(self):
        return json.loads(self.states.messages[-1][1].data)

    def wait(self, state, since=0):
        return self.states.wait(lambda message: json.loads(message.data)["state"] == state, since)

    def commanded(self, since, source):
        """The first command of that source since: (ns received, About, positions)."""
        got, message = self.executed.wait(lambda m: wire.parse_header(m.header.frame_id).source == source, since)
        return got, wire.parse_header(message.header.frame_id), message.points[0].positions

    def path(self, since):
        """(abouts, float64[n, 3]) of what was published since."""
        found = [message for _, message in self.executed.since(since)]
        return [wire.parse_header(m.header.frame_id) for m in found], np.array([m.points[0].positions for m in found])

    def _obey(self, message):
        self.where = list(message.points[0].positions)

    def _live(self):
        while self.graph._running:
            if self.alive:
                self.say(self.where)
            time.sleep(0.01)


def excess(path, abouts):
    """Independent of the guard: worst of what is published, in units of the limits; steps are one period apart."""
    assert (np.diff([about.seq for about in abouts]) == 1).all()
    arm, worst = path[:, :2], 0.0
    for most in (1.0, 10.0, 400.0):
        arm = np.diff(arm, axis=0) / T
        worst = max(worst, np.abs(arm).max(initial=0.0) / most)
    return worst
