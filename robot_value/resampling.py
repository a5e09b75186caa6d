"""Topics at their own rates -> control ticks; the same rule, and the same code, on the robot and for a bag.

Tick k is at t_k = t_0 + k / rate on RECEIVE time: when this computer had a message is what a policy could have known;
header stamps come from other clocks and only serve to compare messages of one observation with each other (max_skew).

Observation k: of every input the newest message received at or before t_k. Older than the input's max_age, or stamps
    that spread beyond max_skew: the tick is stale.
Action k, of the step from t_k to t_{k+1}: the newest command received at or before t_{k+1}, at most max_age old then.
    A policy that saw observation k answers inside the step, so its command is this step's and not the next one's; a
    command that nobody renewed is still what the controller does. Increments act once: exactly one in (t_k, t_{k+1}].
Reward k: the sum of what was received in (t_k, t_{k+1}]: none is lost, none counts twice.
A step is usable where observation k and action k are fresh. A stale stretch splits an episode: nothing is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .messages import extract
from .topics import Numbers, Topics

SECOND = 1_000_000_000  # ns


@dataclass(frozen=True)
class Received:
    """A message and when it came."""

    time: int  # ns, received
    stamp: int  # ns, its header's; `time` where it has none
    open: Callable[[], Any]  # gives the message: only those that a tick uses are ever deserialised


@dataclass
class Mailbox:
    """The newest message until the tick that is `due`, and the newest after it: two slots, however many arrive.

    A tick that runs late (by less than a step) thus still sees what was there on time.
    """

    due: int  # ns, time of the next tick
    ready: Received | None = None
    later: Received | None = None
    arrived: int = 0  # messages since the last tick, until `due`
    arrived_later: int = 0

    def put(self, new: Received) -> None:
        if new.time <= self.due:
            self.ready, self.arrived = _newer(self.ready, new), self.arrived + 1
        else:
            self.later, self.arrived_later = _newer(self.later, new), self.arrived_later + 1

    def take(self, tick: int, following: int) -> tuple[Received | None, int]:
        """The newest at or before `tick` and how many came since the last one; then the tick `following` is due."""
        newest, arrived = self.ready, self.arrived
        if self.later and self.later.time <= tick:  # ticks were left out
            newest, arrived = self.later, arrived + self.arrived_later
            self.later, self.arrived_later = None, 0
        self.ready, self.arrived, self.due = newest, 0, following
        if self.later and self.later.time <= following:
            self.ready, self.arrived = self.later, self.arrived_later
            self.later, self.arrived_later = None, 0
        return newest, arrived


def _newer(old: Received | None, new: Received) -> Received:
    return new if old is None or new.time >= old.time else old


@dataclass(frozen=True)
class Tick:
    """What is known at one tick. Arrays are only made when they are asked for."""

    step: int  # k
    time: int  # ns
    used: dict[str, Received]  # topic -> newest message
    stale: dict[str, str] = field(default_factory=dict)  # observation: topic -> why; empty means fresh
    stale_action: dict[str, str] = field(default_factory=dict)  # of the step that ends at this tick

    def state(self, topics: Topics) -> np.ndarray:
        """float32[S]"""
        return self._numbers(topics.state)

    def action(self, topics: Topics) -> np.ndarray:
        """float32[A], of the step that ends at this tick"""
        return self._numbers(topics.action)

    def images(self, topics: Topics) -> dict[str, np.ndarray]:
        """camera name -> uint8[h, w, 3]"""
        return {entry.camera.name: extract(entry, self.used[entry.topic].open()) for entry in topics.cameras}

    def _numbers(self, entries: Sequence[Numbers]) -> np.ndarray:
        rows = [np.zeros(0, np.float32)]
        for entry in entries:
            received = self.used[entry.topic]
            rows.append(extract(entry, received.open(), (self.time - received.time) / SECOND))
        return np.concatenate(rows)


def time_of(topics: Topics, start: int, step: int) -> int:
    """t_k in ns, on the grid whose t_0 is `start`."""
    return start + round(step * SECOND / topics.rate)


class Assembler:
    """Mailboxes in, ticks out: `put` every message when it comes, `take` the ticks in order."""

    def __init__(self, topics: Topics, start: int, first: int = 0):
        self.topics = topics
        self.start = start  # ns, t_0
        self.boxes = {topic: Mailbox(self.time(first)) for topic in topics.inputs}

    def time(self, step: int) -> int:
        """t_k in ns."""
        return time_of(self.topics, self.start, step)

    def put(self, topic: str, received: Received) -> None:
        self.boxes[topic].put(received)

    def take(self, step: int) -> Tick:
        now = self.time(step)
        taken = {topic: box.take(now, self.time(step + 1)) for topic, box in self.boxes.items()}
        used = {topic: newest for topic, (newest, _) in taken.items() if newest}
        stale = {entry.topic: why for entry in self.topics.observed if (why := _old(entry, used, now))}
        stamps = [used[entry.topic].stamp for entry in self.topics.observed if entry.topic in used]
        if not stale and max(stamps) - min(stamps) > self.topics.max_skew * SECOND:
            stale["max_skew"] = f"stamps spread over {(max(stamps) - min(stamps)) / SECOND:.3f} s"
        stale_action = {entry.topic: why for entry in self.topics.action if (why := _old(entry, used, now))}
        for entry in self.topics.action:
            if entry.counted and (count := taken[entry.topic][1]) != 1:
                stale_action[entry.topic] = f"{count} increments in one step"
        return Tick(step, now, used, stale, stale_action)


def _old(entry: Any, used: dict[str, Received], now: int) -> str:
    if entry.topic not in used:
        return "nothing received"
    age = now - used[entry.topic].time
    return f"{age / SECOND:.3f} s old" if age > entry.max_age * SECOND else ""


class Arrivals:
    """(topic, Received) in order of arrival, read only as far as a tick needs."""

    def __init__(self, messages: Iterable[tuple[str, Received]]):
        self._rest = iter(messages)
        self._ahead = next(self._rest, None)

    def until(self, time: int) -> Iterator[tuple[str, Received]]:
        while self._ahead is not None and self._ahead[1].time <= time:
            message, self._ahead = self._ahead, next(self._rest, None)
            yield message


def ticks(
    topics: Topics, start: int, steps: range, arrivals: Arrivals, before: Iterable[tuple[str, Received]] = ()
) -> Iterator[Tick]:
    """Recorded messages as ticks `steps` of the grid that begins at `start` (ns); `before` came earlier than that."""
    assembler = Assembler(topics, start, steps.start)
    for topic, received in before:
        assembler.put(topic, received)
    for step in steps:
        for topic, received in arrivals.until(assembler.time(step)):
            assembler.put(topic, received)
        yield assembler.take(step)


def runs(fresh: Sequence[bool], fresh_action: Sequence[bool]) -> list[tuple[int, int, bool]]:
    """Longest stretches of usable steps, as (first tick, steps, whether the final observation is fresh too).

    fresh[k] is observation k, fresh_action[k] the action of the step that ends at tick k.
    """
    usable = [fresh[k] and fresh_action[k + 1] for k in range(len(fresh) - 1)]
    edges = np.flatnonzero(np.diff([False, *usable, False]))
    return [(int(a), int(b - a), bool(fresh[b])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def summed(events: Sequence[tuple[int, Any]], times: np.ndarray) -> np.ndarray:
    """float32[T], sum of the numbers received in (t_k, t_{k+1}]; `times` int64[T + 1], ns."""
    when = np.array([time for time, _ in events], np.int64)
    step = np.searchsorted(times, when, "left") - 1
    inside = (step >= 0) & (when <= times[-1])
    totals = np.zeros(len(times) - 1)
    np.add.at(totals, step[inside], np.array([value for _, value in events], np.float64)[inside])
    return totals.astype(np.float32)


def latched(events: Sequence[tuple[int, Any]], times: np.ndarray, before: Any) -> list[Any]:
    """What was said last at or before each of `times` (int64[T], ns); `before` where nothing was yet."""
    last = np.searchsorted(np.array([time for time, _ in events], np.int64), times, "right")
    return [events[i - 1][1] if i else before for i in last]
