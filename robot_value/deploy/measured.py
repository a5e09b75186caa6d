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
    """Every arm joint of the actions is found by its name in the state topics, several entries of one topic included.

    A gripper is where its name is there in the action's unit, beside joints of the arm; elsewhere nobody listens.
    """

    def __init__(self, topics: Topics, limits: Limits) -> None:
        self._limits, entries = limits, _positions(topics)
        self._where = _where(topics, entries)  # per action dim: (number of the state entry, index in it), or None
        used = {place[0] for place in self._where if place}
        if limits.twist.any():  # says nothing of one joint: that all are heard is what is left to ask for
            used = set(range(len(entries)))
        if not used:
            raise ValueError("state: expected a topic with the arm's measured positions, got none")
        self._entries = {number: entries[number] for number in sorted(used)}
        self._newest: dict[int, tuple[int, np.ndarray]] = {}  # number of the entry -> (ns received, values)
        self._stamps: dict[str, float] = {}  # topic -> s, how old its newest message says to be
        self.refused = 0

    @property
    def topics(self) -> dict[str, str]:
        """topic -> type of what has to be listened to."""
        return {entry.topic: entry.type for entry in self._entries.values()}

    def put(self, topic: str, message: Any, now: int, jumps: bool, wall: int = 0) -> Problem | None:
        """None where it is used, whole; `jumps` allows the arm to be somewhere else at once (a scene was reset).

        `wall` is the clock that stamps are made with, ns; 0: they are not looked at. They never decide.
        """
        header, found = getattr(message, "header", None), {}
        if wall and header and (stamp := header.stamp.sec * SECOND + header.stamp.nanosec):
            self._stamps[topic] = (wall - stamp) / SECOND
        for number, entry in self._entries.items():
            if entry.topic != topic:
                continue
            try:
                values = vector(extract(entry, message), len(entry.names))
            except MessageError as error:
                return self._refuse(str(error), latches=isinstance(error, NotFinite))
            if values is None:
                return self._refuse(f"{topic}: expected sane numbers, got some beyond any joint", latches=True)
            if not jumps and (reason := self._jump(number, values, now)):
                return self._refuse(reason, latches=True)
            found[number] = (now, values)
        self._newest |= found
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

    def _jump(self, number: int, values: np.ndarray, now: int) -> str:
        if number not in self._newest:
            return ""
        received, before = self._newest[number]
        entry = self._entries[number]
        for dim, place in enumerate(self._where):
            if not place or place[0] != number or not self._limits.rated[dim]:
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


def _where(topics: Topics, entries: list[Numbers]) -> list[tuple[int, int] | None]:
    known = {name: (number, i) for number, entry in enumerate(entries) for i, name in enumerate(_joints(entry))}
    where: list[tuple[int, int] | None] = []
    for entry, part in zip(topics.action, topics.parts, strict=True):
        names = _joints(entry)
        if part.kind == "joint" and (missing := [name for name in names if name not in known]):
            raise ValueError(f"state: expected the joints of action {part.name} among {list(known)}, got no {missing}")
        where += [known.get(name) if part.kind == "joint" else None for name in names]
    heard = {place[0] for place in where if place}
    for entry, part in zip(topics.action, topics.parts, strict=True):
        for dim, name in enumerate(_joints(entry), part.start):
            place = known.get(name) if part.kind == "gripper" else None
            if place and place[0] in heard and entries[place[0]].units[place[1]] == part.unit:
                where[dim] = place
    return where
