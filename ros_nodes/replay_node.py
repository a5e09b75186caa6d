"""Plays recorded episodes through a robot's topics, so that steering decides on them: in lock-step, or in time.

It takes the place of the arm, the guard and the recorder: sensors, `executed` and `episode` come from it. Nothing is
published on a controller's topics. Each episode begins when steering has seen its first tick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import wire
from robot_value.deploy.playback import Playback, open_log
from robot_value.deploy.recording import parse_step
from robot_value.resampling import SECOND
from robot_value.topics import load

from .health import OK, WARN, Finding
from .managed import EPISODES, RECORD, ManagedNode, run
from .parameters import number
from .raw import message_type

EVENTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
AGAIN = 2.0  # s without an answer to an episode's first tick: it is sent again
SETTLE = 0.5  # s: one side of a connection knows of it before the other does
POLL = 0.002  # s
EARLY, LATE = -0.25, 0.25  # control steps before and after a tick, when it and the step's command are sent


@dataclass(frozen=True)
class Config:
    topics: str = ""  # YAML file: what the robot's topics mean (docs/topics.md)
    store: str = ""  # what is played: an episode store, or an MCAP file or bag
    episode: str = ""  # name of the episode in it; empty: the first; all: every one
    speed: float = number(1.0, 0.01, 100.0)  # x recorded speed; not in lock-step
    lockstep: bool = False  # each tick when steering has seen the one before: exact, and as fast as it decides


class Replay:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self.node, self.config = node, config
        self.left: list[str] = []  # names
        self.now: Playback | None = None
        self._made: list[tuple[Callable[[Any], Any], Any]] = []
        self._origin: int | None = None  # ns, tick 0 on steering's clock
        self._matched: float | None = None  # s, when everything was connected
        self._next, self._half, self._asked = 0, 0, 0  # tick, half step that is due; ns, when tick 0 was sent
        self._seq, self._played = 0, 0

    def configure(self) -> None:
        for name in ("topics", "store"):
            if not getattr(self.config, name):
                raise ValueError(f"{name}: expected a path, got none")
        self.topics = load(self.config.topics)
        self.log = open_log(self.config.store, self.config.topics)
        self.names = _chosen(self.log.names(), self.config.episode)
        self._check()
        node, qos = self.node, RECORD
        types = {entry.topic: message_type(entry.type) for entry in self.topics.observed}
        self.outputs = {topic: node.create_publisher(kind, topic, qos) for topic, kind in types.items()}
        self.executed = node.create_publisher(JointTrajectory, "executed", RECORD)
        self.events = node.create_publisher(String, "episode", EPISODES)
        for publisher in (*self.outputs.values(), self.executed, self.events):
            self._made.append((node.destroy_publisher, publisher))
        self.steps = node.listen(UInt8MultiArray, "step", self._on_step, RECORD)
        self._made += [(node.destroy_subscription, self.steps), (node.destroy_timer, node.every(POLL, self._poll))]

    def activate(self) -> None:
        self.left = list(self.names)
        self.now, self._matched = None, None

    def deactivate(self) -> None:
        if self.now is not None:
            self._end()
        self.left = []

    def cleanup(self) -> None:
        for destroy, made in self._made:
            destroy(made)
        self._made.clear()

    def findings(self) -> list[Finding]:
        if self.now is not None:
            said = f"episode {self.now.number}: tick {self._next} of {self.now.last}"
        else:
            said = f"{len(self.left)} episodes wait for steering" if self.left else f"{self._played} episodes played"
        return [Finding("replay", OK if self._matched or not self.left else WARN, said)]

    # -- what drives it ------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        if not self.node.active or not self._is_matched():
            return
        if self.now is None:
            if self.left:
                self._begin()
        elif self._origin is None:
            if time.monotonic_ns() > self._asked + AGAIN * SECOND:
                self._ask()
        elif not self.config.lockstep:
            self._play_what_is_due()

    def _on_step(self, message: Any) -> None:
        """Steering has seen a tick."""
        try:
            step = parse_step(message.data, self.topics, self.config.lockstep)
        except wire.WireError:
            return  # of another robot
        if self.now is None or step.episode != self.now.number:
            return
        if step.step == 0 and self._origin is None:
            self._origin, self._next = step.time, 1
        if self.config.lockstep and step.step == self._next - 1:
            self._advance(step.step)

    def _advance(self, k: int) -> None:
        """Lock-step: step k happens, and its end is seen."""
        if k < len(self.now.episode):
            self._publish_executed(k)
        if self._next <= self.now.last:
            self._next += 1
            self._publish_tick(k + 1)
        else:
            self._end()

    def _play_what_is_due(self) -> None:
        """Halves of steps: tick k, then the command of step k, whose time steering's own grid has given."""
        while self.now is not None:
            k, tick = divmod(self._half, 2)
            due = (
                self._origin
                + (k + (LATE if not tick else 1 + EARLY)) * self.topics.spec.dt / self.config.speed * SECOND
            )
            if time.monotonic_ns() < due:
                return
            self._half += 1
            if not tick and k < len(self.now.episode):
                self._publish_executed(k)
            elif tick and k + 1 <= self.now.last:
                self._next = k + 2
                self._publish_tick(k + 1)
            elif k >= self.now.last:
                self._end()

    # -- one episode ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        name = self.left.pop(0)
        self.now = Playback(self.log.read(name), self.topics, self.log.names().index(name))
        self._origin, self._next, self._half = None, 0, 0
        self.node.get_logger().info(f"{name}: {len(self.now.episode)} steps")
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic_ns()
        self._say(self.now.start(self._asked))
        self._publish_tick(0)

    def _end(self) -> None:
        self._say(self.now.end(time.monotonic_ns()))
        self.now, self._played = None, self._played + 1

    def _publish_tick(self, k: int) -> None:
        frame = f"{self.now.number}:{k}" if self.config.lockstep else "replay"
        stamp = self.now.stamp(k) if self.config.lockstep else time.time_ns()
        for topic, message in self.now.observation(k, lambda kind: message_type(kind)()):
            if hasattr(message, "header"):
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
                message.header.frame_id = frame
            self.outputs[topic].publish(message)

    def _publish_executed(self, k: int) -> None:
        self._seq += 1
        period = round(self.topics.spec.dt * SECOND)
        point = JointTrajectoryPoint(
            positions=self.now.episode.actions[k].tolist(),
            time_from_start=Duration(sec=period // SECOND, nanosec=period % SECOND),
        )
        names = [name for entry in self.topics.action for name in entry.names]
        message = JointTrajectory(joint_names=names, points=[point])
        message.header.frame_id = wire.header(self.now.executed(k, self._seq, time.monotonic_ns()))
        self.executed.publish(message)

    def _say(self, about: dict[str, Any]) -> None:
        self.events.publish(String(data=json.dumps(about)))

    def _is_matched(self) -> bool:
        """Steering hears everything, and is heard."""
        if self._matched is None:
            publishers = (*self.outputs.values(), self.executed, self.events)
            heard = all(publisher.get_subscription_count() for publisher in publishers)
            self._matched = time.monotonic() if heard and self.steps.get_publisher_count() else None
        return self._matched is not None and time.monotonic() > self._matched + SETTLE

    def _check(self) -> None:
        """Before anything moves: that the episodes fit the topics, and that their messages can be written."""
        first = Playback(self.log.read(self.names[0]), self.topics, 0)
        list(first.observation(0, lambda kind: message_type(kind)()))


def _chosen(names: list[str], wanted: str) -> list[str]:
    if not names:
        raise ValueError("store: expected at least one episode, got none")
    if wanted == "all":
        return names
    if wanted and wanted not in names:
        raise ValueError(f"episode: expected one of {', '.join(names[:5])}, ..., got {wanted!r}")
    return [wanted or names[0]]


def main(args: list[str] | None = None) -> None:
    run("replay", Config, Replay, args)


if __name__ == "__main__":
    main()
