"""When an observation is complete, for a loop that waits in one thread while callbacks fill mailboxes in another.

`Live` ticks on the steady clock, by the rule of resampling.py; its grid may restart where the arm rested. `Lockstep`
knows no clock: tick k is complete when every input says "<episode>:<k>", so that a whole graph of processes repeats
bit by bit. Both end at once when the episode is ended from outside. No ROS, no torch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..messages import MessageError, check
from ..resampling import SECOND, Assembler, Received, Tick, time_of
from ..topics import Numbers, Topics

LATE = 2  # s after which an episode is not begun any more: less than a killed steering needs to come back
FUTURE = SECOND // 20  # ns, a stamp further ahead of this computer's clock belongs to a clock that is wrong


class Ended(Exception):
    """The episode was ended from outside, or nothing more can be seen of it; says why."""


@dataclass(frozen=True)
class Start:
    """An episode begins."""

    episode: int  # counter; frames of a lock-step arm carry it
    seed: int  # key of its randomness, and of the scene where it is simulated
    task: str
    time: int  # ns, steady clock: inputs received before it are another episode's

    def late(self) -> bool:
        """Heard so long after it was said that the episode is elsewhere by now."""
        return time.monotonic_ns() - self.time > LATE * SECOND


@dataclass(frozen=True)
class Event:
    """What is said about episodes."""

    episode: int
    start: Start | None  # it begins; None: it is over
    why: str


def parse_event(text: str) -> Event:
    """Of an `episode` message. Raises ValueError."""
    try:
        data = json.loads(text)
        episode, why = int(data["episode"]), str(data["event"])
        if why != "start":
            return Event(episode, None, why)
        return Event(episode, Start(episode, int(data["seed"]), str(data["task"]), int(data["time"])), why)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"episode: expected an event with its number, got {text[:80]!r} ({error})") from error


@dataclass
class Turn:
    """Which episode runs, and waiting for something of it: until it is there, the time is up or the episode is over."""

    clock: Callable[[], int] = time.monotonic_ns
    changed: threading.Condition = field(default_factory=threading.Condition)
    current: Start | None = None
    why: str = "no episode was started"  # current is None

    def begin(self, start: Start) -> None:
        with self.changed:
            self.current = start
            self.changed.notify_all()

    def end(self, why: str, episode: int | None = None) -> None:
        """`episode` None: whichever runs."""
        with self.changed:
            if self.current is not None and episode in (None, self.current.episode):
                self.current, self.why = None, why
            self.changed.notify_all()

    def wait_for_start(self, seconds: float) -> Start | None:
        with self.changed:
            self.changed.wait_for(lambda: self.current is not None, seconds)
            return self.current

    def until(self, ready: Callable[[], bool], of: Start, deadline: int | None = None) -> bool:
        """Whether it became ready before `deadline` (ns); raises Ended once `of` does not run any more."""
        with self.changed:
            while True:
                if self.current is not of:
                    raise Ended(self.why if self.current is None else "another episode was started")
                if ready():
                    return True
                left = None if deadline is None else (deadline - self.clock()) / SECOND
                if left is not None and left <= 0:
                    return False
                self.changed.wait(left)


class Ticks(Protocol):
    """What the loop asks for; every method may raise Ended."""

    def put(self, topic: str, received: Received, frame: str) -> None: ...

    def begin(self, start: Start, patience: float) -> Tick: ...

    def restart(self, step: int, when: int) -> None: ...

    def time(self, step: int) -> int: ...

    def take(self, step: int, unless: Callable[[], bool], deadline: int | None = None) -> Tick | None:
        """Tick `step`; None where `unless` came true or `deadline` (ns) passed, and the tick may never come."""
        ...

    def there(self, step: int) -> bool:
        """Whether tick `step` is in the past already, and waits to be taken."""
        ...

    def resume(self, step: int, patience: float) -> Tick: ...


class Live:
    """Ticks on the steady clock. A tick may be stale; then `resume` waits for fresh inputs."""

    def __init__(self, topics: Topics, turn: Turn) -> None:
        self.topics, self.turn = topics, turn
        self.newest: dict[str, Received] = {}
        self._assembler: Assembler | None = None
        self._of: Start | None = None

    def put(self, topic: str, received: Received, frame: str = "") -> None:
        with self.turn.changed:
            self.newest[topic] = received
            if self._assembler is not None:
                self._assembler.put(topic, received)
            self.turn.changed.notify_all()

    def begin(self, start: Start, patience: float) -> Tick:
        """Tick 0, as soon as every input is newer than the start."""
        self._of = start
        return self._fresh(0, start.time, patience)

    def restart(self, step: int, when: int) -> None:
        """The arm rested: control step `step` begins at `when` (ns), and the grid goes on from there."""
        with self.turn.changed:
            old, offset = self._assembler, time_of(self.topics, 0, step)
            self._assembler = Assembler(self.topics, when - offset, step + 1)
            for topic, box in old.boxes.items():
                for received in filter(None, (box.ready, box.later)):
                    self._assembler.put(topic, received)

    def time(self, step: int) -> int:
        """t_k in ns."""
        return self._assembler.time(step)

    def take(self, step: int, unless: Callable[[], bool] | None = None, deadline: int | None = None) -> Tick:
        """On a clock the next tick comes whatever happens: nobody else is asked."""
        self.turn.until(lambda: False, self._of, self.time(step))
        with self.turn.changed:
            return self._assembler.take(step)

    def there(self, step: int) -> bool:
        """A clock's ticks are taken when they are due."""
        return False

    def resume(self, step: int, patience: float) -> Tick:
        """A tick of inputs that are all still to come; its number tells how long the gap was since tick `step`."""
        began = self.time(step)
        self._fresh(step, self.turn.clock(), patience)
        gap = max(0, round((self.turn.clock() - began) * self.topics.rate / SECOND))
        return self._regrid(step + gap)

    def _fresh(self, step: int, after: int, patience: float) -> Tick:
        stale: dict[str, str] = {}

        def ready() -> bool:
            old = [e.topic for e in self.topics.observed if e.max_age < np.inf and self._time(e.topic) <= after]
            stale.clear()
            stale.update(dict.fromkeys(old, "nothing received") or self._regrid(step).stale)
            return not stale

        if not self.turn.until(ready, self._of, self.turn.clock() + round(patience * SECOND)):
            raise Ended("no fresh inputs: " + ", ".join(f"{topic} {why}" for topic, why in stale.items()))
        return self._regrid(step)

    def _time(self, topic: str) -> int:
        return self.newest[topic].time if topic in self.newest else -1

    def _regrid(self, step: int) -> Tick:
        """Tick `step` is now."""
        with self.turn.changed:
            start = self.turn.clock() - time_of(self.topics, 0, step)
            self._assembler = Assembler(self.topics, start, step)
            for topic, received in self.newest.items():
                self._assembler.put(topic, received)
            return self._assembler.take(step)


class Lockstep:
    """Ticks by what the frames say, whenever they come. Nothing is ever stale: what is missing is waited for."""

    def __init__(self, topics: Topics, turn: Turn) -> None:
        self.topics, self.turn = topics, turn
        self._wanted = {entry.topic for entry in topics.observed}
        self._frames: dict[tuple[int, int], dict[str, Received]] = {}  # (episode, step) -> topic -> message
        self._of: Start | None = None

    def put(self, topic: str, received: Received, frame: str = "") -> None:
        key = frame_key(frame)
        with self.turn.changed:
            self._frames.setdefault(key, {})[topic] = received
            self.turn.changed.notify_all()

    def begin(self, start: Start, patience: float) -> Tick:
        self._of = start
        return self._take(0)

    def restart(self, step: int, when: int) -> None:
        """No clock: nothing to restart."""

    def time(self, step: int) -> int:
        return time_of(self.topics, 0, step)

    def take(self, step: int, unless: Callable[[], bool], deadline: int | None = None) -> Tick | None:
        """The arm may wait for a new plan, while we wait for the arm."""
        self.turn.until(lambda: self.there(step) or unless(), self._of, deadline)
        return self._take(step) if self.there(step) else None

    def resume(self, step: int, patience: float) -> Tick:
        return self._take(step)

    def there(self, step: int) -> bool:
        return self._wanted <= self._frames.get((self._of.episode, step), {}).keys()

    def _take(self, step: int) -> Tick:
        key = (self._of.episode, step)
        self.turn.until(lambda: self.there(step), self._of)
        with self.turn.changed:
            used = self._frames[key]
            self._frames = {each: frames for each, frames in self._frames.items() if each >= key}
        return Tick(step, self.time(step), used)


def frame_key(frame: str) -> tuple[int, int]:
    """ "<episode>:<step>" of a lock-step arm. Raises MessageError."""
    episode, colon, step = frame.partition(":")
    if not (colon and episode.isascii() and step.isascii() and episode.isdigit() and step.isdigit()):
        raise MessageError(f'frame_id: expected "<episode>:<step>" of a lock-step arm, got {frame[:40]!r}')
    return int(episode), int(step)


def aging(topics: Topics) -> set[str]:
    """Topics whose age counts: those that hold until the next message (max_age .inf) only where there are no others."""
    observed = topics.observed
    return {entry.topic for entry in observed if entry.max_age < np.inf} or {entry.topic for entry in observed}


@dataclass
class Doorman:
    """Looks at every message when it comes: what cannot be used never reaches a mailbox, and is counted with a reason.

    Numbers and pictures must be what the mapping says; a stamp must not lie in the future; pictures must not stay the
    same for longer than `max_frozen` seconds (0: they may; a sensor's noise never repeats, a renderer's picture does).
    """

    max_frozen: float = 0.0  # s
    refused: dict[str, int] = field(default_factory=dict)  # topic -> messages
    last_reason: str = ""
    equal: dict[str, int] = field(default_factory=dict)  # camera topic -> frames in a row that equal the one before
    _digest: dict[str, int] = field(default_factory=dict)
    _changed: dict[str, int] = field(default_factory=dict)  # camera topic -> ns, when its picture last changed

    def admits(self, entry: Any, message: Any, received: Received, wall: int) -> bool:
        """`wall` is this computer's clock in ns, the one that stamps are made with."""
        try:
            self._check(entry, message, received, wall)
        except MessageError as error:
            self.refused[entry.topic] = self.refused.get(entry.topic, 0) + 1
            self.last_reason = str(error)
            return False
        return True

    def _check(self, entry: Any, message: Any, received: Received, wall: int) -> None:
        if received.stamp > wall + FUTURE:
            raise MessageError(f"{entry.topic}: stamped {(received.stamp - wall) / SECOND:.3f} s in the future")
        check(entry, message)
        if self.max_frozen and not isinstance(entry, Numbers):
            self._check_picture(entry.topic, message, received.time)

    def _check_picture(self, topic: str, message: Any, now: int) -> None:
        import zlib

        digest = zlib.crc32(memoryview(message.data))
        if digest != self._digest.get(topic):
            self._digest[topic], self._changed[topic], self.equal[topic] = digest, now, 0
            return
        self.equal[topic] += 1
        if (frozen := (now - self._changed[topic]) / SECOND) > self.max_frozen:
            raise MessageError(f"{topic}: the same picture for {frozen:.1f} s; is the camera frozen?")


# -- plans -------------------------------------------------------------------------------------------------------------


# d_i = 2 s s' / (s + s') of the slopes left and right, 0 where they differ in sign (Fritsch and Butland 1984)
def spline_velocities(
    points: np.ndarray,  # float64[K, A], point i at (i + 1) dt
    dt: float,  # s
    before: np.ndarray | None = None,  # float64[A], where the arm is told to be at time 0; None: not known
) -> np.ndarray:
    """float64[K, A] of a cubic that never overshoots its points; at rest at the last one."""
    if before is None:
        before = points[0]
    slopes = np.diff(points, axis=0, prepend=np.asarray(before)[None]) / dt  # [K, A], towards each point
    left, right = slopes[:-1], slopes[1:]
    same = left * right > 0
    total = np.where(same, left + right, 1.0)
    inner = np.where(same, 2 * left * right / total, 0.0)
    return np.concatenate([inner, np.zeros_like(points[:1])])


@dataclass
class Told:
    """What was decided for the steps to come, and when the oldest input was received that each was decided from."""

    size: int  # A
    steps: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)  # step -> (float32[A], ns)

    def book(self, first: int, actions: np.ndarray, observed: int) -> None:
        """A new decision replaces older ones from its first step on, and what lies beyond its end."""
        self.steps = {step: said for step, said in self.steps.items() if step < first}
        self.steps |= {first + i: (action, observed) for i, action in enumerate(actions)}

    def ahead(self, step: int) -> tuple[np.ndarray, int]:
        """float32[K, A] from `step` on without a gap (K may be 0), and the oldest of their inputs (ns)."""
        rows = []
        while step + len(rows) in self.steps:
            rows.append(self.steps[step + len(rows)])
        self.steps = {each: said for each, said in self.steps.items() if each >= step}
        actions = np.array([action for action, _ in rows], np.float32).reshape(len(rows), self.size)
        return actions, min((observed for _, observed in rows), default=0)
