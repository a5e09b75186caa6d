"""A Simulator behind an arm's command topics: the newest commands are its targets, and old ones make it hold.

No ROS; `ros_nodes/simulated_arm_node.py` moves the messages. A Simulator is what `robots` components build (sim/).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..messages import MessageError, extract
from ..resampling import SECOND, Received
from ..topics import Numbers, Topics

PAUSE = 0.1  # s between two ticks (of a slow arm: 5 periods), after which the process was paused: what waits is old
DEAF = SECOND // 10  # ns after a pause, until what waited is read


class SimulatedArm:
    def __init__(self, simulator: Any, topics: Topics, timeout: float) -> None:
        """`timeout`: s after its last command that a controller holds. Raises SpecMismatch."""
        spec = simulator.spec
        topics.spec.choose(dt=spec.dt, cameras=spec.cameras).check(spec, "the simulated arm")
        self.simulator, self.topics, self._timeout = simulator, topics, round(timeout * SECOND)
        self._measured = _measured(topics)
        self._pause = round(max(PAUSE, 5 * spec.dt) * SECOND)
        self._ticked: int | None = None  # ns
        self._deaf = 0  # ns, until when commands are left out
        self.refused = 0  # commands that made no sense
        self.last_refused = ""

    def reset(self, task: str, seed: int) -> Any:
        """The first Frame of an episode; a task that the simulator does not know is its default."""
        tasks = self.simulator.tasks
        self.frame = self.simulator.reset(task if task in tasks else tasks[0], seed)
        self.over = False  # the episode has ended, or the physics failed
        self._newest: dict[str, Received] = {}
        spec = self.simulator.spec
        # float64[A]; what is not measured, rests
        self._target = np.clip(np.zeros(spec.action_dim), spec.low, spec.high)
        self._hold(slice(0, spec.action_dim))
        return self.frame

    def hear(self, topic: str, received: Received) -> bool:
        """A command, from now on the newest on its topic: True; one that makes no sense is counted and left out.

        So is, uncounted, what waited while the process was paused: a controller must not play it afterwards.
        """
        self._notice_pause(received.time)
        if received.time < self._deaf:
            return False
        try:
            for entry in self.topics.action:
                if entry.topic == topic:
                    extract(entry, received.open())
        except MessageError as error:
            self.refused, self.last_refused = self.refused + 1, str(error)
            return False
        self._newest[topic] = received
        return True

    def tick(self, now: int) -> Any:
        """One physics step at `now` (ns): the next Frame."""
        self._notice_pause(now)
        self._ticked = now
        for entry, part in zip(self.topics.action, self.topics.parts, strict=True):
            if (received := self._newest.get(entry.topic)) is None:
                continue
            if now - received.time <= self._timeout:
                self._target[part.slice] = extract(entry, received.open(), (now - received.time) / SECOND)
            else:  # as a driver whose controller was left alone
                self._hold(part.slice)
                del self._newest[entry.topic]
        return self.step(self._target)

    def step(self, action: np.ndarray) -> Any:
        """One physics step towards `action` [A], taken as a fleet takes it: float32, within the limits."""
        spec = self.simulator.spec
        self.frame = self.simulator.step(np.clip(np.asarray(action).astype(np.float32), spec.low, spec.high))
        self.over |= self.frame.terminated or self.frame.unstable
        return self.frame

    @property
    def following(self) -> bool:
        """Whether any controller has a command that is not too old."""
        return bool(self._newest)

    @property
    def joints(self) -> np.ndarray:
        """float32[J], measured positions of the commanded joints, in the action's order."""
        return self.frame.state[self._measured[self._measured >= 0]]

    def _notice_pause(self, now: int) -> None:
        if self._ticked is not None and now - self._ticked > self._pause:
            self._deaf = now + DEAF

    def _hold(self, dims: slice) -> None:
        """The target becomes where the joints are; what is not measured keeps its last target."""
        where = self._measured[dims]
        self._target[dims] = np.where(where >= 0, self.frame.state[where], self._target[dims])


def _measured(topics: Topics) -> np.ndarray:
    """int64[A]: which state dim is the position of the joint that an action dim commands; -1: none."""
    state = [joint for entry in topics.state for joint in _joints(entry, "position")]
    commanded = [
        joint if part.kind == "joint" else None
        for entry, part in zip(topics.action, topics.parts, strict=True)
        for joint in entry.joints or entry.names
    ]
    return np.array([state.index(joint) if joint in state else -1 for joint in commanded])


def _joints(entry: Numbers, path: str) -> tuple[str | None, ...]:
    """One per dim."""
    return entry.joints if entry.joints and entry.path == path else (None,) * len(entry.names)
