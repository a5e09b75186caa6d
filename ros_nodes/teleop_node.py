"""A human takes the arm over and gives it back: joystick, keyboard, TwistStamped or a leader arm's JointTrajectory.

`intervention` says who owns the arm, `takeover` streams where the hand wants it. The guard obeys within one period and
labels what it executed for the human; this node never publishes to the arm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import topics, wire
from robot_value.deploy.forward_kinematics import Kinematics, load
from robot_value.deploy.teleoperation import Hand, Keys, Pad, Reach, Wish, closing, grippers, joint_velocity
from robot_value.messages import MessageError, extract
from robot_value.safety import is_twist, speeds
from robot_value.topics import JOINT_TRAJECTORY, Numbers

from .health import OK, WARN, Finding
from .managed import COMMAND, SENSOR, ManagedNode, run
from .parameters import number

SOURCES = ("joystick", "keyboard", "twist", "trajectory")
REPEAT = 0.5  # s between two words on `intervention` while the human owns the arm, for nodes that start later


@dataclass(frozen=True)
class Config:
    topics: str = ""  # file that says what the robot's topics mean, docs/topics.md
    source: str = "joystick"  # what the human holds: joystick, keyboard, twist or trajectory
    input: str = ""  # topic of the source; empty: /joy, ~/twist or ~/trajectory
    rate: float = number(50.0, 1.0, 1000.0)  # Hz, points to the guard; its own rate
    points: int = number(3, 1, 100)  # periods that the arm goes on when nothing more comes from here
    speed: float = number(0.25, 0.001, 10.0)  # rad/s or m/s, full speed of every joint or dim of a twist
    gripper_speed: float = number(1.0, 0.01, 10.0)  # the gripper's full speed in ranges/s
    ramp: float = number(0.25, 0.02, 10.0)  # s from rest to full speed
    timeout: float = number(0.25, 0.02, 5.0)  # s without a message from the source until the hand has let go
    fresh: float = number(0.2, 0.02, 5.0)  # s, age of the guard's newest command up to which the arm can be taken over
    key_hold: float = number(0.15, 0.02, 5.0)  # s that one key press moves; a keyboard's auto-repeat renews it
    deadman: int = number(4, 0, 63)  # joystick button that must be held to own the arm (4: left shoulder)
    axes: tuple[int, ...] = number((0, 1, 4, 3), -1, 63)  # joystick axis per action dim, in order; -1: none
    shift: int = number(5, -1, 63)  # joystick button that changes to shifted_axes while it is held; -1: none
    shifted_axes: tuple[int, ...] = number((-1, -1, -1, -1, 0, 1, 3), -1, 63)  # as axes, while shift is held
    close_button: int = number(0, -1, 63)  # joystick button that closes the gripper; -1: none
    open_button: int = number(1, -1, 63)  # joystick button that opens it; -1: none
    kinematics: str = ""  # MJCF (.xml) or URDF (.urdf) file of the arm, for source twist of a joint-space robot
    tool: str = ""  # site or body of the MJCF, link of the URDF, which a twist moves

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source: expected one of {', '.join(SOURCES)}, got {self.source!r}")


class Teleop:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self.node, self.config = node, config
        self._open: list[tuple[Callable[[Any], Any], Any]] = []  # what `cleanup` takes down, and how
        self.hand: Hand | None = None
        self.owned = 0  # times that the arm was taken over
        self.refused = ""  # why it was not, last

    def configure(self) -> None:
        config, node = self.config, self.node
        if not config.topics:
            raise ValueError("topics: expected the file that says what the robot's topics mean, got nothing")
        meaning = topics.load(config.topics)
        self.spec, self.names = meaning.spec, tuple(name for entry in meaning.action for name in entry.names)
        self.schema, self.closes = wire.schema(self.spec), closing(self.spec)
        reach = Reach.from_spec(self.spec, config.speed, config.gripper_speed, config.ramp)
        self.hand = Hand(reach, 1 / config.rate, config.points)
        self._heard, self._executed, self._about = 0, None, None  # of the guard: ns, float64[A], wire.About
        self._said, self._wish, self._seq, self._claimed = 0, None, 0, None  # _said: ns, newest word of the source
        self._repeated, self._ticked = 0, 0  # ns
        self._check_source()
        self._open_source()
        self.takeover = self._keep(node.destroy_publisher, node.create_publisher(JointTrajectory, "takeover", COMMAND))
        self.intervention = self._keep(node.destroy_publisher, node.create_publisher(Bool, "intervention", 10))
        executed = node.listen(JointTrajectory, "executed", self._on_executed, COMMAND)
        self._keep(node.destroy_subscription, executed)
        for name, answer in (("~/take", self._claim), ("~/give_back", self._give_back)):
            self._keep(node.destroy_service, node.serve(Trigger, name, answer))
        self._keep(node.destroy_timer, node.every(1 / config.rate, self._tick))

    def activate(self) -> None:
        self._wish, self._claimed = None, None

    def deactivate(self) -> None:
        self._release("deactivated")

    def cleanup(self) -> None:
        while self._open:
            destroy, each = self._open.pop()
            destroy(each)

    def findings(self) -> list[Finding]:
        owns = "the human owns the arm" if self._owning else "the human's hands are off"
        message = f"{owns}; {self.refused}" if self.refused else owns
        values = {"source": self.config.source, "taken over": str(self.owned)}
        return [Finding("teleop: hand", WARN if self.refused else OK, message, values)]

    @property
    def _owning(self) -> bool:
        return self.hand is not None and self.hand.position is not None

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _check_source(self) -> None:
        if self.config.source == "trajectory" and self.hand.reach.twist.any():
            raise ValueError("source: expected joystick, keyboard or twist for an arm moved by twists, got trajectory")

    def _open_source(self) -> None:
        config = self.config
        if config.source == "joystick":
            pad = (config.deadman, config.axes, config.shift, config.shifted_axes, config.close_button)
            self.pad = Pad(*pad, config.open_button)
            self._listen(Joy, config.input or "/joy", lambda m: self.pad.wish(m.axes, m.buttons, self.closes))
        elif config.source == "trajectory":
            topic, units = config.input or "~/trajectory", ("",) * len(self.names)
            self.leader = Numbers(topic, JOINT_TRAJECTORY, "positions", self.names, self.names, units, np.inf)
            self._listen(JointTrajectory, topic, self._led)
        elif config.source == "twist":
            self.forward = None if self.hand.reach.twist.any() else self._kinematics()
            self._listen(TwistStamped, config.input or "~/twist", self._twisted)
        else:
            from .terminal import Terminal

            self.keys, self.terminal = Keys(self.closes, config.key_hold), Terminal()
            self._keep(Terminal.close, self.terminal)

    def _listen(self, kind: type, topic: str, read: Any) -> None:
        def store(message: Any) -> None:
            try:
                self._wish, self._said = read(message), time.monotonic_ns()
            except MessageError as error:
                self._wish, self.refused = None, str(error)

        self._keep(self.node.destroy_subscription, self.node.listen(kind, topic, store, SENSOR))

    def _keep(self, destroy: Callable[[Any], Any], each: Any) -> Any:
        self._open.append((destroy, each))
        return each

    def _kinematics(self) -> Kinematics:
        """Of the arm's joints, given all action dims."""
        if not self.config.kinematics:
            raise ValueError("kinematics: expected the arm's MJCF or URDF, because source is twist; got nothing")
        arm = ~grippers(self.spec)
        names = [name for name, moving in zip(self.names, arm, strict=True) if moving]
        tool = load(self.config.kinematics, self.config.tool, names)
        return lambda positions: tool(positions[:, arm])

    def _led(self, message: JointTrajectory) -> Wish:
        target = extract(self.leader, message).astype(np.float64)
        return Wish(True, np.zeros_like(target), target)

    def _twisted(self, message: TwistStamped) -> Wish:
        vectors = [getattr(message.twist, name) for name in ("linear", "angular")]
        twist = np.array([[getattr(vector, axis) for axis in "xyz"] for vector in vectors])  # m/s, rad/s
        if not np.isfinite(twist).all():
            raise MessageError(f"twist: expected finite numbers, got {twist.tolist()}")
        velocity = np.zeros_like(self.closes)
        if self.forward is None:
            for part in filter(is_twist, self.spec.parts):
                velocity[part.slice] = twist.ravel() if part.kind == "pose" else twist[int(part.kind == "rotation")]
            velocity /= speeds(self.spec)
        elif self._executed is not None:
            velocity = joint_velocity(self.forward, self._executed, twist[0])
        return Wish(True, np.clip(velocity / self.hand.reach.speed, -1, 1))

    def _on_executed(self, message: JointTrajectory) -> None:
        try:
            plan = wire.parse_plan(message, self.names)
        except wire.WireError as error:
            self.refused = f"executed: {error}"
            return
        self._executed, self._about, self._heard = plan.actions[0], plan.about, time.monotonic_ns()

    def _claim(self, _: Any) -> str:
        """The service `take`: own the arm until `give_back`, whatever the deadman says."""
        self._claimed = self.node.active or None
        return "" if self.node.active else "expected an active node; activate it first"

    def _give_back(self, _: Any) -> str:
        self._claimed = False
        self._release("given back")
        return ""

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self.node.active:
            return
        wish, now = self._wished(), time.monotonic_ns()
        if not wish.owns:
            return self._release("let go")
        if self._executed is None or now - self._heard > self.config.fresh * 1e9:
            self.refused = "nothing heard from the guard; the arm cannot be taken over"
            return self._release(self.refused)
        self.refused = ""
        if not self._owning:
            self.hand.take(self._executed)
            self.owned, self._ticked = self.owned + 1, now
        if now - self._repeated > REPEAT * 1e9:
            self.intervention.publish(Bool(data=True))
            self._repeated = now
        for _ in range(self._periods(now)):
            actions, velocities = self.hand.advance(wish, self._executed)
        self.takeover.publish(self._message(actions, velocities, now))

    def _periods(self, now: int) -> int:
        """Since the last tick, so that the hand's speed is that of the clock; at most what a plan goes on for."""
        passed, self._ticked = (now - self._ticked) * 1e-9, now
        return min(max(1, round(passed * self.config.rate)), self.config.points)

    def _wished(self) -> Wish:
        """What the hand says now; a source that went quiet has let go, and a given-back arm waits for that."""
        now = time.monotonic_ns()
        nothing = Wish(False, np.zeros_like(self.closes))
        if self.config.source == "keyboard":
            for key in self.terminal.pressed():
                self.keys.press(key, now * 1e-9)
            wish = self.keys.wish(now * 1e-9)
        else:
            wish = self._wish if self._wish and now - self._said <= self.config.timeout * 1e9 else nothing
        if self._claimed is False and not wish.owns:
            self._claimed = None
        owns = wish.owns if self._claimed is None else self._claimed
        return Wish(owns, wish.velocity if wish.owns else nothing.velocity, wish.target)

    def _release(self, why: str) -> None:
        if self._owning:
            self.hand.release()
            self._repeated = 0
            self.intervention.publish(Bool(data=False))
            self.node.get_logger().info(f"the arm is given back: {why}")

    def _message(self, actions: np.ndarray, velocities: np.ndarray, now: int) -> JointTrajectory:
        self._seq += 1
        about = (self._seq, self._about.episode, self._about.step, 0, self._heard, now, self.schema, wire.HUMAN)
        message = JointTrajectory(joint_names=list(self.names))
        message.header.frame_id = wire.header(wire.About(*about))
        for i, (position, velocity) in enumerate(zip(actions, velocities, strict=True)):
            sec, nanosec = divmod(round((i + 1) * 1e9 / self.config.rate), 1_000_000_000)
            point = JointTrajectoryPoint(positions=position.tolist(), velocities=velocity.tolist())
            point.time_from_start = Duration(sec=sec, nanosec=nanosec)
            message.points.append(point)
        return message


def main(args: list[str] | None = None) -> None:
    run("teleop", Config, Teleop, args)


if __name__ == "__main__":
    main()
