"""What the guard says: every command and whose it was (`executed`), its state (`guard_state`), and its log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rclpy.duration import Duration
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from robot_value import wire
from robot_value.guard import FAULT, RUN, Guard

from .managed import LATCHED, RECORD, ManagedNode
from .outputs import one_point

SILENCE = 1000  # added to the sequence number per period without a command: what follows begins anew


class Executed:
    """Numbered commands; the numbers go on for as long as the node is configured."""

    def __init__(self, node: ManagedNode, names: Sequence[str], schema: str, period: float) -> None:
        self._names, self._schema, self._due = tuple(names), schema, Duration(seconds=period).to_msg()
        self.seq = 0
        self.publisher = node.create_lifecycle_publisher(JointTrajectory, "executed", RECORD)

    def skip(self) -> None:
        """Nothing was commanded: what follows begins anew."""
        self.seq += SILENCE

    def record(self, command: np.ndarray, about: wire.About | None, source: str, step: int) -> JointTrajectory:
        """The next command, float64[A]: whose it is, and of which step; `about` is of the plan followed last."""
        said = {
            "seq": self.seq + 1,
            "source": source,
            "step": step,
            "start": time.monotonic_ns(),
            "schema": self._schema,
        }
        nothing = {"episode": 0, "observed": 0, "created": 0}
        message = one_point(self._names, command.tolist(), self._due)
        message.header.frame_id = wire.header(replace(about, **said) if about else wire.About(**nothing, **said))
        return message

    def publish(self, record: JointTrajectory) -> None:
        self.seq += 1
        self.publisher.publish(record)


class States:
    """The guard's state, at once when it has changed; while it runs, reasons come and go unsaid."""

    def __init__(self, node: ManagedNode, guard: Guard) -> None:
        self._node, self._guard = node, guard
        self.faults = 0
        self._said, self._since = ("", False, ""), 0
        self.publisher = node.create_publisher(String, "guard_state", LATCHED)

    def clear(self) -> None:
        self.faults, self._said, self._since = 0, ("", False, ""), 0

    def say(self) -> None:
        guard = self._guard
        now = (guard.state, guard.enabled, guard.reason if guard.state != RUN else "")
        if now != self._said:
            self.faults += guard.state == FAULT != self._said[0]
            self._said, self._since = now, time.monotonic_ns()
            self.tell()
            if guard.state == FAULT:
                self._node.diagnose()

    def tell(self) -> None:
        """Also once a second, so that a second guard of our name learns of us."""
        guard = self._guard
        text = {"state": guard.state, "reason": guard.reason, "since": self._since, "enabled": guard.enabled}
        self.publisher.publish(String(data=json.dumps(text | {"clamps": guard.clamps, "pid": os.getpid()})))


class Log:
    """Lines for the log, which are written later, by a timer and without the guard's lock: the newest of each topic.

    A line costs rclpy's logger 1 ms, throttled or not; while it is written, no command may have to wait.
    """

    def __init__(self, node: ManagedNode) -> None:
        self._node = node
        self._lines: dict[str, tuple[bool, str]] = {}  # topic -> whether it is an error, the line

    def note(self, topic: str, line: str, error: bool = False) -> None:
        self._lines[topic] = (error, line)

    def write(self) -> None:
        while self._lines:
            error, line = self._lines.popitem()[1]
            log = self._node.get_logger()
            log.error(line) if error else log.warning(line)
