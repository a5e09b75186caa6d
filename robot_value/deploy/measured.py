"""The arm's measured state in the order of the action dims: every topic's newest message, checked, with its age."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..messages import MessageError, NotFinite, extract
from ..resampling import SECOND
from ..safety import Limits, vector
from ..topics import Numbers, Topics

# s that a stamp may be ahead of this computer's clock, and behind: a wrong clock, or a driver that repeats itself.
FUTURE, PAST = 0.05, 0.5
JUMP = 3.0  # times the velocity limit, plus the tolerance: no joint moves that fast


@dataclass(frozen=True)
class Problem:
    reason: str
    latches: bool  # the driver tells nonsense, instead of something that is not meant for us


class Measured:
    """Every arm joint of the actions is found by its name in the state topics; grippers only where they are there."""

    def __init__(self, topics: Topics, limits: Limits) -> None:
        self._limits = limits
        self._where = _where(topics)  # per action dim: (state topic, index in its entry), or None
        used = {place[0] for place in self._where if place}
        if limits.twist.any():  # says nothing of one joint: that all are heard is what is left to ask for
            used = {entry.topic for entry in _positions(topics)}
        if not used:
            raise ValueError("state: expected a topic with the arm's measured positions, got none")
        self._entries = {entry.topic: entry for entry in _positions(topics) if entry.topic in used}
        self._newest: dict[str, tuple[int, np.ndarray]] = {}  # topic -> (ns received, values)
        self._stamps: dict[str, float] = {}  # topic -> s, how old its newest message says to be
        self.refused = 0

    @property
    def topics(self) -> dict[str, str]:
        """topic -> type of what has to be listened to."""
        return {topic: entry.type for topic, entry in self._entries.items()}

    def put(self, topic: str, message: Any, now: int, jumps: bool, wall: int = 0) -> Problem | None:
        """None where it is used; `jumps` allows the arm to be somewhere else at once (a scene was reset).

        `wall` is the clock that stamps are made with, ns; 0: they are not looked at. They never decide.
        """
        entry, header = self._entries[topic], getattr(message, "header", None)
        if wall and header and (stamp := header.stamp.sec * SECOND + header.stamp.nanosec):
            self._stamps[topic] = (wall - stamp) / SECOND
        try:
            values = vector(extract(entry, message), len(entry.names))
        except MessageError as error:
            return self._refuse(str(error), latches=isinstance(error, NotFinite))
        if values is None:
            return self._refuse(f"{topic}: expected sane numbers, got some beyond any joint", latches=True)
        if not jumps and (reason := self._jump(entry, values, now)):
            return self._refuse(reason, latches=True)
        self._newest[topic] = (now, values)
        return None

    def age(self, now: int) -> float:
        """s, of the oldest topic's newest message; infinite where one is missing."""
        if len(self._newest) < len(self._entries):
            return np.inf
        return max((now - received) / SECOND for received, _ in self._newest.values())

    def valid_until(self, max_age: float) -> int:
        """ns, the first moment at which `age` is more than `max_age` s; 0 where a topic was not heard yet."""
        if len(self._newest) < len(self._entries):
            return 0
        return min(received for received, _ in self._newest.values()) + math.ceil(max_age * SECOND) + 1

    @property
    def odd_stamps(self) -> str:
        """Which topics' newest stamps do not fit the time they were received at; "" where all do."""
        odd = {topic: age for topic, age in self._stamps.items() if not -FUTURE <= age <= PAST}
        when = {True: "ago", False: "in the future"}
        said = [f"{topic}: stamped {abs(age):.3g} s {when[age > 0]}" for topic, age in odd.items()]
        return ", ".join(said) + "; do all computers' clocks agree?" if odd else ""

    @property
    def positions(self) -> np.ndarray | None:
        """float64[A]; dims that nobody measures are at 0, or at their nearest limit."""
        if len(self._newest) < len(self._entries):
            return None
        values = [self._newest[place[0]][1][place[1]] if place else 0.0 for place in self._where]
        unknown = np.array([place is None for place in self._where])
        return np.where(unknown, np.clip(values, self._limits.low, self._limits.high), values)

    def _jump(self, entry: Numbers, values: np.ndarray, now: int) -> str:
        if entry.topic not in self._newest:
            return ""
        received, before = self._newest[entry.topic]
        for dim, place in enumerate(self._where):
            if not place or place[0] != entry.topic or not self._limits.rated[dim]:
                continue
            moved = abs(values[place[1]] - before[place[1]])
            most = JUMP * self._limits.velocity[dim] * (now - received) / SECOND + self._limits.tolerance
            if moved > most:
                return f"{entry.topic}: expected {entry.names[place[1]]} to move at most {most:.3g}, got {moved:.3g}"
        return ""

    def _refuse(self, reason: str, latches: bool) -> Problem:
        self.refused += 1
        return Problem(reason, latches)


def _positions(topics: Topics) -> list[Numbers]:
    """State entries without those of velocities and efforts of the same joints."""
    return [entry for entry in topics.state if not entry.joints or entry.path == "position"]


def _joints(entry: Numbers) -> tuple[str, ...]:
    return entry.joints or entry.names


def _where(topics: Topics) -> list[tuple[str, int] | None]:
    known = {name: (entry.topic, i) for entry in _positions(topics) for i, name in enumerate(_joints(entry))}
    where = []
    for entry, part in zip(topics.action, topics.parts, strict=True):
        names = _joints(entry)
        if part.kind == "joint" and (missing := [name for name in names if name not in known]):
            raise ValueError(f"state: expected the joints of action {part.name} among {list(known)}, got no {missing}")
        where += [known.get(name) if part.kind == "joint" else None for name in names]
    return where
