"""One episode while it is recorded: what steering saw, what the guard executed, what was said. No ROS, no torch.

Observations are those that steering says it used, bit by bit. Actions are what was executed, by the rule of
resampling.py: of the step from t_k to t_{k+1} the newest command published at or before t_{k+1}; in lock-step, the
command of step k; without a guard, what controllers were told. assembling.py makes stored episodes of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import wire
from ..messages import extract
from ..resampling import SECOND, Received, Tick
from ..topics import Topics
from ..types import Decision
from .album import Album, Frame, Key

ENDINGS = ("stop", "success", "failure", "discard", "ended")  # "ended": by steering, e.g. after max_steps
LAST = 1 << 20  # control steps that an episode may have
LATEST = 2  # s that steering may take to say that a step is over
TASK_ENDS = ("success", "failure")  # the episode is terminated; else truncated


@dataclass(frozen=True)
class Step:
    """A control tick as steering saw it. Its pictures are named, not sent."""

    episode: int
    step: int  # k
    time: int  # ns, t_k
    state: np.ndarray  # float32[S]
    frames: dict[str, Key]  # camera name -> which of its frames


def parse_step(data: Any, topics: Topics, lockstep: bool) -> Step:
    """Of a `step` message. Raises WireError."""
    about, arrays = wire.unpack(data)
    numbers = [about.get(key) for key in ("episode", "step", "time")]
    if any(type(number) is not int or number < 0 for number in numbers) or numbers[1] > LAST:
        raise wire.WireError(f"step: expected episode, step (at most {LAST}) and time (ns), got {numbers}")
    state, size = arrays.get("state"), topics.spec.state_dim
    if state is None or state.dtype != np.float32 or state.shape != (size,) or not np.isfinite(state).all():
        raise wire.WireError(f"step: expected a finite state float32[{size}], got {state!r}")
    names = {entry.camera.name: entry.camera.name if lockstep else entry.topic for entry in topics.cameras}
    told, kind = (about.get("frames"), str) if lockstep else (about.get("used"), int)
    if not isinstance(told, dict) or any(type(told.get(name)) is not kind for name in names.values()):
        raise wire.WireError(f"step: expected the frames that were used, {kind.__name__} of {names}, got {told!r}")
    return Step(*numbers, state, {camera: told[name] for camera, name in names.items()})


def parse_decision(data: Any) -> Decision:
    """Of a `decision` message, for one robot. Raises WireError."""
    decision = wire.unpack_decision(data)
    if sizes := {len(getattr(decision, name)) for name in (*wire.ARRAYS, "reason")} - {1}:
        raise wire.WireError(f"decision: expected one robot's, got {sorted(sizes)}")
    return decision


@dataclass(frozen=True)
class Command:
    """What the arm was told last."""

    time: int  # ns, published
    step: int  # of the plan it follows
    action: np.ndarray  # float32[A]
    source: str  # wire.POLICY, HUMAN or STOP


class Controls:
    """What controllers were told lately, where no guard says what was executed."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self._kept: dict[str, deque[Received]] = {entry.topic: deque() for entry in topics.action}

    def put(self, topic: str, received: Received) -> None:
        """Of other topics nothing is kept."""
        kept = self._kept.get(topic, deque())
        kept.append(received)
        while len(kept) > 1 and kept[1].time < received.time - LATEST * SECOND:
            kept.popleft()

    def action(self, begin: int, end: int) -> np.ndarray | None:
        """float32[A] of the step from `begin` to `end` (ns); None where none was in force. Raises MessageError."""
        newest = {}
        for entry in self.topics.action:
            told = [received for received in self._kept[entry.topic] if received.time <= end]
            if not told or end - told[-1].time > entry.max_age * SECOND:
                return None
            if entry.counted and sum(received.time > begin for received in told) != 1:
                return None
            newest[entry.topic] = told[-1]
        return Tick(0, end, newest).action(self.topics)


@dataclass(frozen=True)
class Ending:
    event: str  # one of ENDINGS
    time: int  # ns
    steps: int | None = None  # T, where it is known without the time
    why: str = ""


@dataclass
class Take:
    """What came of one episode; topics may come in any order."""

    topics: Topics
    number: int
    seed: int  # key of its randomness
    task: str
    start: int  # ns
    by_step: bool  # commands name their step (lock-step, or no guard); else their time counts
    counted: bool = False  # lock-step: the i-th reward, and the i-th success, are step i's
    steps: dict[int, Step] = field(default_factory=dict)
    pictures: dict[Frame, np.ndarray] = field(default_factory=dict)  # uint8[h, w, 3]
    missing: set[Frame] = field(default_factory=set)  # asked for, and not there yet
    commands: list[Command] = field(default_factory=list)
    planned: dict[int, np.ndarray] = field(default_factory=dict)  # step -> float32[A], what the newest plan wanted
    decisions: dict[int, Decision] = field(default_factory=dict)  # first step -> decision
    rewards: list[tuple[int, float]] = field(default_factory=list)  # (ns received, reward)
    successes: int = 0  # how often something was said about success
    success: bool | None = None  # what was said last
    won: tuple[int, int] | None = None  # the first that was true: its number from 0 on, ns received
    ending: Ending | None = None
    bytes: int = 0  # of the pictures

    # -- what comes ----------------------------------------------------------------------------------------------------

    def put_step(self, step: Step, album: Album) -> None:
        if step.episode == self.number and step.step not in self.steps:
            self.steps[step.step] = step
            self.missing |= step.frames.items() - self.pictures.keys()
            self.look(album)

    def put_tick(self, tick: Tick, source: str) -> None:
        """A tick of our own; what is stale at it is lost. `source`: whose the action is, where no guard says it."""
        if not tick.stale:
            frames = {entry.camera.name: tick.used[entry.topic].time for entry in self.topics.cameras}
            self.steps[tick.step] = Step(self.number, tick.step, tick.time, tick.state(self.topics), frames)
            for entry in self.topics.cameras:
                if (frame := (entry.camera.name, frames[entry.camera.name])) not in self.pictures:
                    self._keep(frame, extract(entry, tick.used[entry.topic].open()))
        if self.by_step and tick.step and not tick.stale_action:
            self.commands.append(Command(tick.time, tick.step - 1, tick.action(self.topics), source))

    def put_controls(self, step: Step, controls: Controls, source: str) -> None:
        """Without a guard: what controllers were told in the step that ends with `step`. Raises MessageError."""
        before = self.steps.get(step.step - 1)
        if step.episode != self.number or before is None:
            return
        action = controls.action(before.time, step.time)
        if action is not None:
            self.commands.append(Command(step.time, before.step, action, source))

    def put_command(self, plan: wire.Plan) -> None:
        about, action = plan.about, _single(plan.actions)[0]
        if not self.by_step or about.episode == self.number:
            self.commands.append(Command(about.start, about.step, action, about.source))

    def put_plan(self, plan: wire.Plan) -> None:
        """Steps that are over keep what was planned when they were executed."""
        if plan.about.episode == self.number and plan.about.source == wire.POLICY:
            for step, action in enumerate(_single(plan.actions), plan.about.step):
                if step + 1 not in self.steps:
                    self.planned[step] = action

    def put_decision(self, decision: Decision) -> None:
        self.decisions[int(decision.start_step[0])] = decision

    def put_success(self, time: int, value: bool) -> None:
        if value and self.won is None:
            self.won = (self.successes, time)
        self.success, self.successes = value, self.successes + 1

    def look(self, album: Album) -> None:
        """Fetch the pictures that steps have asked for. Raises MessageError; then that picture is given up."""
        for frame in [frame for frame in self.missing if frame in album]:
            self.missing.discard(frame)
            self._keep(frame, album.open(frame))

    def _keep(self, frame: Frame, image: np.ndarray) -> None:
        self.pictures[frame] = image
        self.bytes += image.nbytes

    # -- its end -------------------------------------------------------------------------------------------------------

    def succeeded(self) -> Ending | None:
        """How the success that was told ends the episode, as soon as its step is over."""
        if self.won is None:
            return None
        number, time = self.won
        over = [k for k, step in self.steps.items() if step.time >= time]
        steps = number + 1 if self.counted else min(over, default=-1)
        return Ending("success", time, steps) if steps in self.steps else None

    @property
    def length(self) -> int:
        """T. A task that ends in the middle of a step ends with that step; a stop cuts it off."""
        if self.ending.steps is not None:
            return self.ending.steps
        under_way = self.ending.event in TASK_ENDS and not self.by_step  # its command is known
        until = self.ending.time + (not under_way)
        last = max((k for k, step in self.steps.items() if step.time < until), default=-1)
        return last + 1 if under_way else max(last, 0)

    def complete(self) -> bool:
        """Nothing that belongs to it is under way any more."""
        last = self.length
        frames = range(last + (self.ending.steps is not None or last in self.steps))  # with the final one
        told = not self.counted or "reward" not in self.topics.events or len(self.rewards) >= last
        return told and all(map(self.whole, frames)) and all(self.executed())

    def whole(self, k: int) -> bool:
        """Observation k is there with all its pictures."""
        return k in self.steps and not self.unseen(k)

    def unseen(self, k: int) -> list[str]:
        """Cameras whose frame of observation k is not there."""
        return [frame[0] for frame in self.steps[k].frames.items() if frame not in self.pictures]

    def end(self, k: int) -> int:
        """t_{k+1} in ns; of the last step that was seen, when it was due."""
        if k + 1 in self.steps:
            return self.steps[k + 1].time
        return self.steps[k].time + round(SECOND / self.topics.rate) if k in self.steps else 0

    def executed(self) -> list[Command | None]:
        """Of steps 0..T-1; None where there was none, or only one too old to be in force."""
        if self.by_step:
            by_step = {command.step: command for command in self.commands}
            return [by_step.get(k) for k in range(self.length)]
        commands = sorted(self.commands, key=lambda command: command.time)
        oldest = min(entry.max_age for entry in self.topics.action) * SECOND  # ns
        ends = [self.end(k) for k in range(self.length)]
        newest = np.searchsorted([command.time for command in commands], ends, "right") - 1
        found = zip(newest, ends, strict=True)
        return [commands[i] if i >= 0 and end - commands[i].time <= oldest else None for i, end in found]


def _single(actions: np.ndarray) -> np.ndarray:
    """float32[K, A]. Raises WireError for numbers that only float64 has: no store takes the infinity they become."""
    with np.errstate(over="ignore"):
        single = actions.astype(np.float32)
    if not np.isfinite(single).all():
        raise wire.WireError(f"positions: expected float32 numbers, got {actions[~np.isfinite(single)][0]}")
    return single
