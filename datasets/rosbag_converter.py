"""ROS 2 bags (MCAP and sqlite3) -> episodes, with the mapping and the resampling rule that the live nodes use.

docs/topics.md. The first pass reads times only and plans every episode; images are decoded only where a tick uses them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_value.convert import ConversionError, Survey, identity_of, spec_from
from robot_value.datasets.bag_files import LATEST, Bag, is_bag
from robot_value.datasets.topics_skeleton import skeleton
from robot_value.messages import MessageError, said
from robot_value.resampling import SECOND, Arrivals, Received, Tick, latched, runs, summed, ticks, time_of
from robot_value.topics import Event, Topics, TopicsError, load
from robot_value.types import HUMAN, POLICY, Episode, Spec

Said = list[tuple[int, Any]]  # (ns, what an event's message said) in order
Seeds = tuple[tuple[str, int], ...]  # (topic, ns received)


def recognises(path: Path) -> bool:
    return is_bag(path)


@dataclass(frozen=True)
class Config:
    topics: str = ""  # YAML file that maps topics to fields (docs/topics.md); without it the bag's topics are listed
    spec: str = ""  # JSON file with the Spec, where the YAML's names, units or limits are not the ones to use
    shortest: int = 2  # steps; stretches of usable steps that are shorter than this are left out
    tail: float = 1.0  # s; success counts only where no more than this is cut from an episode's end

    def build(self, path: Path) -> RosbagSource:
        bag = Bag(path)
        try:
            if not self.topics:
                raise ConversionError(skeleton(bag))
            topics = load(self.topics)
            begins = [event for key, event in topics.events.items() if key == "start"]
            bag.check(topics.types, needed={*topics.inputs, *(event.topic for event in begins)})
            return RosbagSource(bag, topics, _spec(topics, self.spec), self)
        except BaseException as error:
            bag.close()
            if isinstance(error, TopicsError):
                raise ConversionError(str(error)) from error
            raise


@dataclass(frozen=True)
class Span:
    """From an operator's start to the stop."""

    start: int  # ns, tick 0
    stop: int  # ns
    until: int  # ns, what is said about the episode (its success) may still come until here


@dataclass(frozen=True)
class Run:
    """A stretch of usable steps of a span; becomes one episode."""

    key: str
    span: Span
    first: int  # tick
    steps: int  # T
    final_observed: bool
    ends_span: bool  # no more than Config.tail of the span comes after it
    seeds: Seeds  # what was newest at the first tick


@dataclass
class Plan:
    runs: list[Run] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # a line per span that is not used whole


class RosbagSource:
    def __init__(self, bag: Bag, topics: Topics, spec: Spec, config: Config):
        self.bag, self.topics = bag, topics
        self.said = {key: _said(bag, event) for key, event in topics.events.items()}
        self.plan = _plan(bag, topics, _spans(bag, topics, self.said), config)
        if not self.plan.runs:
            raise ConversionError(
                f"{bag.path}: expected at least one usable stretch, got {'; '.join(self.plan.cut) or 'none'}"
            )
        self.survey = Survey(
            format="ROS 2 bag",
            spec=spec,
            keys=tuple(run.key for run in self.plan.runs),
            steps=tuple(run.steps for run in self.plan.runs),
            identity=identity_of([bag.topics, repr(topics), spec.to_json(), config.shortest, config.tail], bag.files),
            assumed=_assumed(bag, topics),
            left_out=(*_left_out(bag, topics), *self._unrewarded(), *self.plan.cut),
        )

    def read(self, index: int) -> Episode:
        run = self.plan.runs[index]
        try:
            return self._read(run)
        except (MessageError, ConversionError) as error:
            raise ConversionError(f"{self.bag.path}: episode {run.key}: {error}") from error

    def close(self) -> None:
        self.bag.close()

    def _read(self, run: Run) -> Episode:
        topics, spec, frames = self.topics, self.survey.spec, run.steps + run.final_observed
        states = np.empty((frames, spec.state_dim), np.float32)
        actions = np.empty((run.steps, spec.action_dim), np.float32)
        images = {c.name: np.empty((frames, c.height, c.width, 3), np.uint8) for c in spec.cameras}
        times = np.empty(run.steps + 1, np.int64)  # ns, t_first .. t_(first + T)
        for row, tick in enumerate(self._ticks(run)):
            if (row < frames and tick.stale) or (row and tick.stale_action):
                raise ConversionError("its messages were there a moment ago; expected an index that finds them again")
            times[row] = tick.time
            if row:
                actions[row - 1] = tick.action(topics)
            if row < frames:
                states[row] = tick.state(topics)
                for name, image in tick.images(topics).items():
                    images[name][row] = image
        human = latched(self.said.get("intervention", []), times[1:], False)
        success = self._success(run)
        return Episode(
            spec=spec,
            states=states,
            images=images,
            actions=actions,
            rewards=summed(self.said.get("reward", []), np.append(times[:-1], _rewarded(topics, run)[1])),
            terminated=success is True,
            truncated=success is not True,
            success=success,
            task=_task(self.said.get("task", []), run.span),
            source=np.where(human, HUMAN, POLICY).astype(np.uint8) if "intervention" in self.said else None,
            provenance={"bag": self.bag.path.name, "received": [int(times[0]), int(times[-1])]},  # ns
        )

    def _ticks(self, run: Run) -> Iterator[Tick]:
        """The run's ticks again, from the messages that were newest at its first and those that came after it."""
        topics, start, last = self.topics, run.span.start, run.first + run.steps
        before = [message for topic, time in run.seeds for message in self.bag.messages({topic}, time, time + 1)]
        between = (time_of(topics, start, run.first) + 1, time_of(topics, start, last) + 1)
        arrivals = Arrivals(self.bag.messages(set(topics.inputs), *between))
        return ticks(topics, start, range(run.first, last + 1), arrivals, before)

    def _unrewarded(self) -> list[str]:
        """A line where a reward belongs to no episode."""
        edges = [edge for run in self.plan.runs for edge in _rewarded(self.topics, run)]
        told = [(time, value) for time, value in self.said.get("reward", []) if value]
        outside = np.searchsorted(edges, [time for time, _ in told], "left") % 2 == 0
        if not outside.any():
            return []
        total = sum(value for (_, value), lost in zip(told, outside, strict=True) if lost)
        return [f"reward: {outside.sum()} of {len(told)} that are not 0 came outside every episode, {total:g} in all"]

    def _success(self, run: Run) -> bool | None:
        """Only the stretch that ends the span knows how it ended."""
        told = [value for time, value in self.said.get("success", []) if run.span.start < time <= run.span.until]
        return bool(told[-1]) if told and run.ends_span else None


def _rewarded(topics: Topics, run: Run) -> tuple[int, int]:
    """(after, until], ns: when its rewards come. The run that ends its span has those that come with the stop, too."""
    first, last = (time_of(topics, run.span.start, tick) for tick in (run.first, run.first + run.steps))
    closed = min(run.span.stop + round(SECOND / topics.rate), run.span.until)
    return first, max(last, closed) if run.ends_span else last


def _said(bag: Bag, event: Event) -> Said:
    return [(received.time, said(event, received.open())) for _, received in bag.messages({event.topic})]


def _task(told: Said, span: Span) -> str:
    """What was said last before the start, else first after it."""
    before = [value for time, value in told if time <= span.start]
    after = [value for time, value in told if span.start < time <= span.until]
    return (before[-1:] or after[:1] or [""])[0]


def _spans(bag: Bag, topics: Topics, told: dict[str, Said]) -> list[Span]:
    """Between start and stop; a start ends what went before; without a start topic the whole bag is one span."""
    end = bag.reader.end_time - 1
    if "start" not in topics.events:
        first = next(bag.messages(set(topics.inputs)), None)
        return [Span(first[1].time, end, end)] if first else []
    starts, stops = _marks(topics, told)
    spans = []
    for start, following in zip(starts, [*starts[1:], end + 1], strict=True):
        stop = min((time for time in stops if start < time < following), default=following - 1)
        spans.append(Span(start, stop, following - 1))
    return spans


def _marks(topics: Topics, told: dict[str, Said]) -> tuple[list[int], list[int]]:
    """Times (ns) of starts and of stops."""
    started, stopped = told["start"], told.get("stop", [])
    if topics.events.get("stop") != topics.events["start"]:
        return [time for time, value in started if value], [time for time, value in stopped if value]
    before = [
        False,
        *(value for _, value in started),
    ]  # one flag, which many publish again and again: its changes count
    changes = [(time, value) for (time, value), last in zip(started, before, strict=False) if value != last]
    return [time for time, value in changes if value], [time for time, value in changes if not value]


def _plan(bag: Bag, topics: Topics, spans: list[Span], config: Config) -> Plan:
    """One pass over all times of arrival; no message is deserialised."""
    _credible(bag, topics, spans)
    plan, newest = Plan(), {}
    arrivals = Arrivals(bag.messages(set(topics.inputs)))
    for number, span in enumerate(spans):
        newest |= dict(arrivals.until(span.start))
        found = _Scan()
        for tick in ticks(topics, span.start, range(_count(topics, span)), arrivals, newest.items()):
            found.add(tick)
            newest = tick.used
        _add(plan, number, span, found, topics.rate, config)
    if missed := [time for _, time in _times(arrivals.until(LATEST)) if time >= bag.reader.end_time]:
        raise ConversionError(
            f"{bag.path}: metadata.yaml misses the last {len(missed)} messages; `ros2 bag reindex` it"
        )
    return plan


class _Scan:
    """What one span's ticks tell before anything is decoded."""

    def __init__(self) -> None:
        self.fresh: list[bool] = []  # observation k
        self.fresh_action: list[bool] = []  # of the step that ends at tick k
        self.seeds: dict[int, Seeds] = {}  # first tick of a run -> what was newest then
        self.why: Counter[str] = Counter()  # stale topic -> ticks
        self._maybe: Seeds = ()  # of a run that begins at the last tick, if one does

    def add(self, tick: Tick) -> None:
        usable = bool(self.fresh) and self.fresh[-1] and not tick.stale_action
        if usable and self._maybe:
            self.seeds[tick.step - 1] = self._maybe
        self._maybe = () if usable else _times(tick.used.items())
        self.fresh.append(not tick.stale)
        self.fresh_action.append(not tick.stale_action)
        self.why.update(tick.stale.keys() | (tick.stale_action.keys() if tick.step else set()))


def _times(messages: Iterable[tuple[str, Received]]) -> Seeds:
    return tuple((topic, received.time) for topic, received in messages)


def _add(plan: Plan, number: int, span: Span, found: _Scan, rate: float, config: Config) -> None:
    steps = len(found.fresh) - 1  # that the span could have
    kept = [run for run in runs(found.fresh, found.fresh_action) if run[1] >= config.shortest]
    for i, (first, length, observed) in enumerate(kept):
        key = f"{number}.{i}" if len(kept) > 1 else f"{number}"
        ends = i == len(kept) - 1 and steps - first - length <= config.tail * rate
        plan.runs.append(Run(key, span, first, length, observed, ends, found.seeds[first]))
    if cut := steps - sum(length for _, length, _ in kept):
        causes = ", ".join(f"{topic} at {n} ticks" for topic, n in sorted(found.why.items()))
        into = f"; it becomes {len(kept)} episodes" if len(kept) > 1 else ""
        plan.cut.append(f"span {number}: {cut} of {steps} steps, stale: {causes or 'none, but too short'}{into}")


def _count(topics: Topics, span: Span) -> int:
    """Ticks from start to stop."""
    return 1 + math.floor((span.stop - span.start) * topics.rate / SECOND)


def _credible(bag: Bag, topics: Topics, spans: list[Span]) -> None:
    """A message of 1970 among those of today would be half a century of empty ticks."""
    count, most = sum(_count(topics, span) for span in spans), 10_000 + sum(f.stat().st_size for f in bag.files) // 10
    if count > most:
        raise ConversionError(
            f"{bag.path}: expected at most {most} ticks in a bag of this size, got {count}; is the time of a message "
            "wrong, or is there no `start` topic in a bag that is mostly pauses?"
        )


def _spec(topics: Topics, path: str) -> Spec:
    """The YAML's, or the one that `--source.spec` says is meant, which must fit it."""
    if (given := spec_from(path)) is None:
        return topics.spec
    for what in ("action_dim", "state_names", "cameras", "dt"):
        expected, got = getattr(topics.spec, what), getattr(given, what)
        if expected != got:
            raise ConversionError(f"{path}: {what}: expected {expected} as in the YAML of topics, got {got}")
    return given.choose(horizon=0, n_obs_steps=0)


def _assumed(bag: Bag, topics: Topics) -> tuple[str, ...]:
    def unless(key: str, then: str) -> list[str]:
        if key not in topics.events:
            return [f"{then}; `{key}` in the YAML of --source.topics names the topic"]
        topic = topics.events[key].topic
        return [] if topic in bag.topics else [f"{then}; {topic}, which --source.topics names, is not in the bag"]

    return (
        *unless("start", "the whole bag is one recording"),
        *unless("reward", "rewards are 0"),
        *unless("success", "success is unknown and every episode is truncated"),
        *unless("task", "the task has no text"),
        *unless("intervention", "every action is the policy's"),
        *(["a success ends the task, without one the episode is truncated"] if "success" in topics.events else []),
    )


def _left_out(bag: Bag, topics: Topics) -> list[str]:
    unread = [(topic, about) for topic, about in bag.topics.items() if topic not in topics.types]
    lines = [f"topic {topic} ({kind}, {count} messages)" for topic, (kind, count) in unread]
    return [*lines, *([f"{bag.lost} bytes of an unfinished record at the end of the file"] if bag.lost else [])]
