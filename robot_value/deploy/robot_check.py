"""What is wrong with a robot's topics, before anything moves: pure judgements on what was heard for a few seconds.

Ticks are made of it by the very rule of the live nodes (resampling.py); pictures are what a policy would see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..messages import MessageError, extract
from ..resampling import SECOND, Arrivals, Received, Tick, ticks
from ..topics import NAMED, Numbers, Pictures, Topics
from ..types import ActionPart, Spec
from .ticking import FUTURE

OK, WARN, FAIL = "ok", "warn", "FAIL"
POSITIONS = ("position", "data")  # fields of messages with a state in which a joint's name stands for its position
OURS = ("guard", "replay")  # nodes of ours that may publish where controllers listen
MOVED = 0.05  # rad or m, by hand: more than noise and sagging
FLAT = 2.0  # standard deviation of a picture's pixels, of 255, below which nothing is to be seen on it


@dataclass(frozen=True)
class Line:
    """One sentence of the report."""

    level: str  # OK, WARN or FAIL
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<5} {self.about}: {self.text}"


@dataclass(frozen=True)
class End:
    """A publisher or subscriber on the graph."""

    node: str
    type: str
    reliable: bool


@dataclass(frozen=True)
class Arrival:
    time: int  # ns, received, steady clock
    stamp: int  # ns, its header's; `wall` where it has none
    wall: int  # ns, this computer's clock when it was received


@dataclass
class Heard:
    """One topic. Of pictures only the last ones are kept; `arrivals` has the times of all."""

    publishers: Sequence[End] = ()
    subscribers: Sequence[End] = ()
    arrivals: list[Arrival] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)  # oldest first

    @property
    def gaps(self) -> np.ndarray:
        """float64[n - 1], s between receptions"""
        return np.diff([arrival.time for arrival in self.arrivals]) / SECOND


def wiring(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Line]:
    """Is everybody there, with the right type, and can the two ends talk?"""
    inputs, events = {e.topic for e in topics.observed}, {e.topic for e in topics.events.values()}
    grippers = {e.topic for e, part in zip(topics.action, topics.parts, strict=True) if part.kind == "gripper"}
    for topic, kind in topics.types.items():
        found, commanded = heard[topic], topic not in inputs | events
        others = found.subscribers if commanded else found.publishers
        wrong = sorted({end.type for end in others if end.type != kind})
        if wrong:
            yield Line(FAIL, topic, f"expected {kind}, got {', '.join(wrong)}")
        elif commanded:
            yield _commanded(topic, found, topic in grippers)
        elif not others:
            yield Line(FAIL if topic in inputs else WARN, topic, f"nobody publishes it; expected {kind}")
        elif topic in inputs and len(others) > 1:
            yield Line(WARN, topic, f"{len(others)} publish it: {', '.join(end.node for end in others)}")
        else:
            trust = "reliable" if all(end.reliable for end in others) else "best effort; we listen best effort too"
            yield Line(OK, topic, f"{kind} from {others[0].node}, {trust}")


def _commanded(topic: str, found: Heard, gripper: bool) -> Line:
    foreign = [end.node for end in found.publishers if end.node.rpartition("/")[2] not in OURS]
    if foreign:
        return Line(FAIL, topic, f"{', '.join(foreign)} publishes it too; the guard must be the only one")
    if found.subscribers:
        return Line(OK, topic, f"{', '.join(end.node for end in found.subscribers)} listens")
    if gripper:
        return Line(WARN, topic, "no controller listens; right where the guard has a gripper_action instead")
    return Line(FAIL, topic, "no controller listens; is it loaded and active? (ros2 control list_controllers)")


def rates(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Line]:
    for entry in topics.observed:
        gaps = heard[entry.topic].gaps
        if not gaps.size:
            yield Line(
                FAIL, entry.topic, f"{len(heard[entry.topic].arrivals)} messages; expected at least {topics.rate:g} Hz"
            )
            continue
        rate, longest = 1 / np.mean(gaps), np.max(gaps)
        text = f"{rate:.1f} Hz, longest gap {longest * 1e3:.0f} ms, may be {entry.max_age * 1e3:.0f} ms old"
        level = FAIL if longest > entry.max_age else WARN if rate < 0.95 * topics.rate else OK
        yield Line(level, entry.topic, text)


def clocks(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Line]:
    """Stamps against this computer's clock: a message from the future is refused by the live nodes."""
    for entry in topics.observed:
        behind = [arrival.wall - arrival.stamp for arrival in heard[entry.topic].arrivals]
        if behind and min(behind) < -FUTURE:
            text = f"stamped {-min(behind) / SECOND:.3f} s in the future; synchronise the computers' clocks (chrony)"
            yield Line(FAIL, entry.topic, text)
        elif behind:
            yield Line(OK, entry.topic, f"received {np.median(behind) / 1e6:.1f} ms after its stamp")


def freshness(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Line]:
    """Ticks as the live nodes would have taken them: how many could be decided on, and why not the others."""
    made = list(_ticks(topics, heard))
    if not made:
        yield Line(FAIL, "ticks", "not one, because an input is missing")
        return
    used = [entry.topic for entry in topics.observed]
    spread = [max(stamps) - min(stamps) for t in made for stamps in [[t.used[name].stamp for name in used]]]
    ages = [max(t.time - t.used[name].time for name in used) for t in made]
    text = (
        f"oldest input p99 {_ms(ages)} ms, stamps spread p99 {_ms(spread)} ms (max_skew {topics.max_skew * 1e3:.0f} ms)"
    )
    why = Counter(f"{topic} {reason}" for tick in made for topic, reason in tick.stale.items())
    stale = sum(bool(tick.stale) for tick in made)
    worst = f"; {why.most_common(1)[0][0]}" if why else ""
    level = OK if not stale else WARN if stale <= 0.02 * len(made) else FAIL
    yield Line(level, "ticks", f"{stale} of {len(made)} stale; {text}{worst}")


def _ticks(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Tick]:
    names = [entry.topic for entry in topics.observed]
    if any(not heard[name].arrivals for name in names):
        return
    start = max(heard[name].arrivals[0].time for name in names)
    end = min(heard[name].arrivals[-1].time for name in names)
    events = [(name, Received(a.time, a.stamp, open=lambda: None)) for name in names for a in heard[name].arrivals]
    events.sort(key=lambda event: event[1].time)
    yield from ticks(topics, start, range(int((end - start) / SECOND * topics.rate) + 1), Arrivals(events))


def _ms(values: Sequence[int]) -> str:
    return f"{np.percentile(values, 99) / 1e6:.1f}"


def numbers(topics: Topics, heard: Mapping[str, Heard]) -> Iterator[Line]:
    """Do messages say what the file promises, are joints where commands may send them, and did anything move?"""
    limits = {
        joint: (low, high)
        for entry, part in zip(topics.action, topics.parts, strict=True)
        if part.reference == "absolute"
        for joint, low, high in zip(_commanded_joints(entry, part), part.low, part.high, strict=False)
    }
    for entry in topics.state:
        rows, reason = _read(entry, heard[entry.topic].messages)
        if reason:
            yield Line(FAIL, entry.topic, reason)
        if not len(rows):
            continue
        yield from _reordered(entry, heard[entry.topic].messages[-1])
        for i, name in enumerate(entry.names):
            low, high = limits.get(_places(entry)[i], (-np.inf, np.inf))
            inside = low <= rows[-1, i] <= high
            text = f"{rows[-1, i]:+.4f} {entry.units[i]}, moved {np.ptp(rows[:, i]):.4f}"
            yield Line(OK if inside else FAIL, name, text if inside else f"{text}; expected {low:g} to {high:g}")


def _places(entry: Numbers) -> tuple[str, ...]:
    """One per dim: the joint whose position it is; "" for a speed, an effort or the like."""
    return entry.joints or entry.names if entry.path in POSITIONS else ("",) * len(entry.names)


def _commanded_joints(entry: Numbers, part: ActionPart) -> tuple[str, ...]:
    """As the state names them; none for what is no joint, or a gripper that names none."""
    return entry.joints or (entry.names if part.kind == "joint" else ())


def _read(entry: Numbers, messages: Sequence[Any]) -> tuple[np.ndarray, str]:
    """float32[n, dims] of the messages that can be read, and why others cannot."""
    rows, reasons = [], Counter()
    for message in messages:
        try:
            rows.append(extract(entry, message))
        except MessageError as error:
            reasons[str(error)] += 1
    said = [f"{count} of {len(messages)} messages refused: {why}" for why, count in reasons.most_common(1)]
    return np.array(rows).reshape(len(rows), len(entry.names)), "".join(said)


def _reordered(entry: Numbers, message: Any) -> Iterator[Line]:
    if entry.joints:
        order = [name for name in getattr(message, NAMED[entry.type]) if name in entry.joints]
        if order != list(entry.joints):
            yield Line(OK, entry.topic, f"says joints in another order ({', '.join(order)}); found by name")


def pictures(topics: Topics, heard: Mapping[str, Heard]) -> tuple[list[Line], dict[str, np.ndarray]]:
    """Lines, and camera -> uint8[h, w, 3], the newest frame as a policy sees it."""
    lines, seen = [], {}
    for entry in topics.cameras:
        frames, reason = _frames(entry, heard[entry.topic].messages)
        if reason:
            lines.append(Line(FAIL, entry.camera.name, reason))
        if not frames:
            continue
        seen[entry.camera.name] = frames[-1]
        text = f"{entry.camera.height} x {entry.camera.width} {entry.encoding}, mean {frames[-1].mean():.0f} of 255"
        flat, frozen = frames[-1].std() < FLAT, len(frames) > 1 and all((frames[0] == f).all() for f in frames[1:])
        why = "; nothing is to be seen on it" if flat else "; every frame is the same" if frozen else ""
        lines.append(Line(WARN if why else OK, entry.camera.name, text + why))
    return lines, seen


def _frames(entry: Pictures, messages: Sequence[Any]) -> tuple[list[np.ndarray], str]:
    try:
        return [extract(entry, message) for message in messages], ""
    except MessageError as error:
        return [], str(error)


def contract(spec: Spec, who: str, wanted: Spec) -> Iterator[Line]:
    """`wanted` is a checkpoint's."""
    differences = wanted.differences(spec)
    yield from (Line(FAIL, who, f"{line} from this robot") for line in differences)
    if not differences:
        yield Line(OK, who, "was trained for this robot's numbers, units, cameras and rate")


def latency(seconds: Sequence[float], execute: int, dt: float) -> Line:
    """Of warm decisions. An arm that thinks while it moves needs one within the steps it is busy with."""
    median, slow, budget = *np.percentile(seconds, (50, 99)), execute * dt
    text = f"p50 {median * 1e3:.0f} ms, p99 {slow * 1e3:.0f} ms for {execute} steps of {dt * 1e3:.0f} ms"
    if slow > budget:
        return Line(FAIL, "decision", f"{text}: slower than the arm moves; fewer candidates, or a smaller policy")
    return Line(WARN if slow > 0.5 * budget else OK, "decision", text)


def walk(topics: Topics, read: Callable[[], np.ndarray], ask: Callable[[str], Any]) -> Iterator[Line]:
    """Ask for every commanded joint to be moved by hand; `read` gives float[S] now, `ask` returns when it was done."""
    names, entries = topics.spec.state_names, zip(topics.action, topics.parts, strict=True)
    driven = {joint for entry, part in entries for joint in _commanded_joints(entry, part)}
    joints = [joint for entry in topics.state for joint in _places(entry)]
    places = np.array([joint != "" for joint in joints])
    if not driven & set(joints):
        yield Line(WARN, "move", "nothing is asked for: the actions name none of the state's joints")
    for i, (name, joint) in enumerate(zip(names, joints, strict=True)):
        if joint in driven:
            ask(f"Next is {name}. Let go of the arm, then press Enter.")
            before = read()
            ask(f"Turn {name} by hand, a hand's width to its positive side, hold it there and press Enter.")
            yield judged(names, i, np.where(places, read() - before, 0.0))


def judged(names: Sequence[str], wanted: int, change: np.ndarray) -> Line:
    """`change` float[S], rad or m."""
    most = int(np.argmax(np.abs(change)))
    if abs(change[most]) < MOVED:
        return Line(
            FAIL, names[wanted], f"nothing moved by {MOVED} or more; the most was {names[most]} {change[most]:+.3f}"
        )
    if most != wanted:
        return Line(FAIL, names[wanted], f"{names[most]} moved instead ({change[most]:+.3f}); is the order right?")
    if change[most] < 0:
        return Line(FAIL, names[wanted], f"moved {change[most]:+.3f}: the sign is turned round")
    return Line(OK, names[wanted], f"moved {change[most]:+.3f}")
