"""A simulated arm behind the topics of a ros2_control arm: real time, or in lock-step with the guard.

Real time: at `rate` it steps its physics towards the newest commands and publishes joint states, and images at
`camera_rate`. Lock-step: state k, then one step for the guard's `executed` of step k, then state k + 1; no clock.
"""

from __future__ import annotations

import array
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float32, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from robot_value.deploy.lookout import Lookout
from robot_value.deploy.simulated_arm import SimulatedArm
from robot_value.deploy.ticking import parse_event
from robot_value.deploy.topics_writer import COMMANDS, topics_of
from robot_value.resampling import SECOND, Received
from robot_value.scenarios import Part
from robot_value.topics import IMAGE, JOINT_STATE, JOINT_TRAJECTORY, Numbers, Topics, load
from robot_value.wire import WireError, parse_plan

from .health import ERROR, OK, WARN, Finding
from .managed import COMMAND, EPISODES, RECORD, SENSOR, ManagedNode, run
from .parameters import number

COMMANDED = {JOINT_TRAJECTORY: JointTrajectory, COMMANDS: Float64MultiArray}
REPEAT = 1.0  # s without a command after which a lock-step arm says its state again
FLIPPED = {"rgb8": 1, "bgr8": -1}


@dataclass(frozen=True)
class Config:
    topics: str = (
        ""  # file that says what its topics mean (docs/topics.md); empty: as robot_value.deploy.topics_writer writes
    )
    model: str = "first_order"  # simulated robot: first_order or robosuite
    settings: str = ""  # JSON of the model's settings that differ, e.g. {"task": "Lift", "control": "joint_absolute"}
    rate: float = number(100.0, 1.0, 1000.0)  # Hz, physics steps and joint states; whole; not used in lock-step
    camera_rate: float = number(20.0, 0.1, 1000.0)  # Hz, images of every camera; lock-step has one per control step
    # s after its last command that a controller holds where the arm is; UR's ROS driver: 0.04
    command_timeout: float = number(0.04, 0.001, 60.0)
    lockstep: bool = False  # steps only for the guard's `executed` commands: tests and parity, no wall clock
    seed: int = 0  # where the arm stands before the first episode
    log: str = ""  # file to which every command that is read is appended, a JSON line each; empty: none


class SimulatedArmNode:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self.node, self.config = node, config
        self._undo: list[Callable[[], Any]] = []  # in reverse order
        self._timer: Any = None

    def configure(self) -> None:
        made, self.topics = _made(self.config)
        _spoken(self.topics)
        self._lookout = None
        if self.topics.cameras and not self.config.lockstep:
            self._lookout = Lookout(made.simulator)
            self._undo.append(self._lookout.close)
            made = replace(made, cameras=())
        simulator = made.simulator()
        self._undo.append(simulator.close)
        self.arm = SimulatedArm(simulator, self.topics, self.config.command_timeout)
        self._log = open(self.config.log, "a", buffering=1) if self.config.log else None  # noqa: SIM115  until cleanup
        if self._log:
            self._undo.append(self._log.close)
        self._open()
        self.episode, self.step = -1, 0
        self._waited_at = (-1, 0)
        self.arm.reset("", self.config.seed)

    def activate(self) -> None:
        self._picture_due, self._cheered = 0, False
        if not self.config.lockstep:
            self._timer = self.node.every(1 / self.config.rate, self._tick)

    def deactivate(self) -> None:
        if self._timer is not None:
            self.node.destroy_timer(self._timer)
            self._timer = None

    def cleanup(self) -> None:
        self.deactivate()
        while self._undo:
            self._undo.pop()()

    def findings(self) -> list[Finding]:
        arm, name = self.arm, f"{self.node.get_name()}: physics"
        values = {"episode": str(self.episode), "step": str(self.step), "refused": str(arm.refused)}
        if arm.frame.unstable:
            return [Finding(name, ERROR, "the physics failed; silent until the next episode", values)]
        if arm.refused:
            return [Finding(name, WARN, f"{arm.refused} commands refused, the last: {arm.last_refused}", values)]
        return [Finding(name, OK, "following" if arm.following else "holding", values)]

    # -- in ------------------------------------------------------------------------------------------------------------

    def _told(self, message: String) -> None:
        """A new episode: the scene jumps to its start."""
        said = json.loads(message.data)
        if said["event"] != "start" or (parse_event(message.data).start.late() and not self.config.lockstep):
            return
        self.episode, self.step, self._cheered = said["episode"], 0, False
        self.arm.reset(said.get("task", ""), said["seed"])
        if self.config.lockstep and self.node.active:
            self._publish()

    def _command(self, entry: Numbers, message: Any) -> None:
        received = Received(now := time.monotonic_ns(), now, lambda: message)
        obeyed = self.arm.hear(entry.topic, received)
        if self._log:
            said = _logged(entry, message, now, self.arm.joints.tolist()) | {"obeyed": obeyed}
            self._log.write(json.dumps(said) + "\n")

    def _executed(self, message: JointTrajectory) -> None:
        names = [name for entry in self.topics.action for name in entry.names]
        try:
            plan = parse_plan(message, names)
        except WireError as error:
            self.arm.refused, self.arm.last_refused = self.arm.refused + 1, str(error)
            return
        this = (plan.about.episode, plan.about.step) == (self.episode, self.step)
        if not this or self.arm.over or not self.node.active:
            return
        self.step += 1
        frame = self.arm.step(plan.actions[0])
        self._say("reward", Float32, float(frame.reward))
        self._say("success", Bool, bool(frame.success))  # both before the state: they carry no step
        self._publish()

    def _repeat(self) -> None:
        """In lock-step nobody goes on without a state: whoever was found too late to hear it gets it again."""
        now = (self.episode, self.step)
        if now == self._waited_at and self.episode >= 0 and self.node.active and not self.arm.over:
            self._publish()
        self._waited_at = now

    def _tick(self) -> None:
        now, over = time.monotonic_ns(), self.arm.over
        frame = self.arm.tick(now)
        self.step += 1
        if frame.reward and not over:
            self._say("reward", Float32, float(frame.reward))
        if frame.success and not self._cheered:
            self._cheered = True
            self._say("success", Bool, True)
        self._publish()
        if self._lookout:
            self._watch(now)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        lockstep = self.config.lockstep
        states, pictures = (RECORD, RECORD) if lockstep else (COMMAND, SENSOR)
        self._states = {entry.topic: self._publisher(JointState, entry.topic, states) for entry in self.topics.state}
        self._cameras = [self._publisher(Image, entry.topic, pictures) for entry in self.topics.cameras]
        events = {"reward": Float32, "success": Bool}
        told = {key: self.topics.events[key].topic for key in events if key in self.topics.events}
        self._events = {key: self._publisher(events[key], topic, RECORD) for key, topic in told.items()}
        self._listen(String, "episode", self._told, EPISODES)
        if lockstep:
            self._listen(JointTrajectory, "executed", self._executed, RECORD)
            timer = self.node.every(REPEAT, self._repeat)
            self._undo.append(lambda: self.node.destroy_timer(timer))
        for entry in () if lockstep else self.topics.action:
            self._listen(COMMANDED[entry.type], entry.topic, lambda m, entry=entry: self._command(entry, m), COMMAND)

    def _publisher(self, kind: type, topic: str, qos: Any) -> Any:
        publisher = self.node.create_publisher(kind, topic, qos)
        self._undo.append(lambda: self.node.destroy_publisher(publisher))
        return publisher

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        subscription = self.node.listen(kind, topic, callback, qos)
        self._undo.append(lambda: self.node.destroy_subscription(subscription))

    def _say(self, event: str, kind: type, value: Any) -> None:
        if event in self._events:
            self._events[event].publish(kind(data=value))

    def _watch(self, now: int) -> None:
        """Pictures that are done go out with the stamp of the state they show; the next ones are asked for."""
        if (seen := self._lookout.take()) is not None:
            self._show(*seen)
        if now >= self._picture_due and not self._lookout.busy and not self.arm.frame.unstable:
            self._picture_due = now + round(SECOND / self.config.camera_rate)
            self._lookout.show(self.arm.simulator.save_state(), self._header())

    def _publish(self) -> None:
        """The frame as messages; of one whose physics failed nothing may be believed."""
        frame = self.arm.frame
        if frame.unstable:
            return
        stamp, name = header = self._header()
        for topic, publisher in self._states.items():
            message = JointState()
            message.header.stamp, message.header.frame_id = stamp, name
            message.name, message.position = _named(self.topics, topic, frame.state)
            publisher.publish(message)
        if frame.images:
            self._show(frame.images, header)

    def _show(self, images: dict[str, Any], header: tuple[Time, str]) -> None:
        for entry, publisher in zip(self.topics.cameras, self._cameras, strict=True):
            message = _picture(images[entry.camera.name], entry.encoding)
            message.header.stamp, message.header.frame_id = header
            publisher.publish(message)

    def _header(self) -> tuple[Time, str]:
        if not self.config.lockstep:
            return self.node.get_clock().now().to_msg(), ""
        passed = round(self.step * SECOND / self.topics.rate)
        return Time(sec=passed // SECOND, nanosec=passed % SECOND), f"{self.episode}:{self.step}"


def _made(config: Config) -> tuple[Any, Topics]:
    """The model's settings: at the control rate in lock-step, else at `rate`; with the cameras that the topics name."""
    made = _settings(config)
    given = load(config.topics) if config.topics else None
    control = given.rate if given else made.control_freq
    rate = control if config.lockstep else config.rate
    if rate != round(rate):
        raise ValueError(f"rate: expected a whole number of Hz, got {rate}")
    cameras = [entry.camera for entry in given.cameras] if given else []
    if cameras:
        made = replace(made, cameras=tuple(camera.name for camera in cameras), camera_size=cameras[0].height)
    made = replace(made, control_freq=round(rate))
    return made, given or topics_of(made.simulator().spec.choose(dt=1 / control))


def _settings(config: Config) -> Any:
    try:
        return Part(config.model, json.loads(config.settings or "{}")).config("robots")
    except Exception as error:  # of the JSON, of draccus, of the model's own checks
        raise ValueError(f"model {config.model!r}, settings {config.settings!r}: {error.__cause__ or error}") from error


def _spoken(topics: Topics) -> None:
    """Raise ValueError where this arm cannot speak as the topics say."""
    for entry in topics.state:
        if (entry.type, entry.path) != (JOINT_STATE, "position"):
            raise ValueError(
                f"{entry.topic}: expected positions of a {JOINT_STATE}, got {entry.path} of a {entry.type}"
            )
    for entry in topics.action:
        if entry.type not in COMMANDED:
            raise ValueError(f"{entry.topic}: expected one of {', '.join(COMMANDED)}, got {entry.type}")
    sizes = {size for entry in topics.cameras for size in (entry.camera.height, entry.camera.width)}
    if len(sizes) > 1:
        raise ValueError(f"cameras: expected squares of one size, got sides of {sorted(sizes)} pixels")
    for entry in topics.cameras:
        if entry.type != IMAGE or entry.encoding not in FLIPPED:
            raise ValueError(
                f"{entry.topic}: expected rgb8 or bgr8 in a {IMAGE}, got {entry.encoding} in a {entry.type}"
            )


def _named(topics: Topics, topic: str, state: Any) -> tuple[list[str], list[float]]:
    """Joints' names and positions of all entries with this topic; `state`: float32[S]."""
    names, positions, first = [], [], 0
    for entry in topics.state:
        if entry.topic == topic:
            names += entry.joints
            positions += state[first : first + len(entry.names)].tolist()
        first += len(entry.names)
    return names, positions


def _picture(image: Any, encoding: str) -> Image:
    """`image`: uint8[h, w, 3], RGB"""
    height, width, _ = image.shape
    data = array.array("B", image[..., :: FLIPPED[encoding]].tobytes())  # anything else is copied byte by byte
    return Image(height=height, width=width, encoding=encoding, step=3 * width, data=data)


def _logged(entry: Numbers, message: Any, now: int, measured: list[float]) -> dict[str, Any]:
    """The command as it came, unchecked: an independent judge reads it."""
    trajectory = entry.type == JOINT_TRAJECTORY
    points = [list(point.positions) for point in message.points] if trajectory else [list(message.data)]
    names = list(message.joint_names) if trajectory else list(entry.names)
    return {"time": now, "topic": entry.topic, "names": names, "points": points, "measured": measured}


def main(args: list[str] | None = None) -> None:
    run("simulated_arm", Config, SimulatedArmNode, args)


if __name__ == "__main__":
    main()
