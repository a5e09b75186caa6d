"""What is in a store, in numbers: read once (without images and decisions), episode by episode; damage is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..statistics import Interval, wilson
from ..types import SOURCES, Episode, Spec
from .findings import Finding, frames, judge, measure
from .manifest import EpisodeDamaged, Problem
from .remote import RemotePath
from .store import EpisodeStore


@dataclass(frozen=True)
class Facts:
    """One episode in a line."""

    name: str
    steps: int
    total: float  # sum of rewards
    success: bool | None
    terminated: bool
    final_observed: bool
    unstable: bool
    task: str
    recorder: str  # the robot that provenance names, "" where it names none
    sources: tuple[int, ...]  # steps decided by each of types.SOURCES
    beyond: np.ndarray  # int64[A], steps whose action lies outside the Spec's limits
    state_low: np.ndarray  # float32[S]
    state_high: np.ndarray  # float32[S]


@dataclass(frozen=True)
class StoreSummary:
    path: Path | RemotePath
    spec: Spec
    facts: tuple[Facts, ...]  # of the sound episodes, in the order of appending
    damage: tuple[Problem, ...]
    gaps: tuple[int, ...]  # numbers between the first and the last episode that no episode has
    size: int  # bytes on disk, without the cache
    findings: tuple[Finding, ...] = ()  # what would hurt training

    @property
    def episodes(self) -> int:
        return len(self.facts)

    @property
    def steps(self) -> int:
        return sum(fact.steps for fact in self.facts)

    @property
    def success(self) -> Interval | None:
        """Rate with its 95 % Wilson interval over the episodes where success is known."""
        known = [fact.success for fact in self.facts if fact.success is not None]
        return wilson(sum(known), len(known)) if known else None

    @property
    def unstable(self) -> int:
        return sum(fact.unstable for fact in self.facts)

    def to_text(self) -> str:
        pairs = self.lines()
        width = max(len(term) for term, _ in pairs)
        lines = [self.headline(), *(f"  {term:<{width}}  {value}" for term, value in pairs), *self._keys()]
        return "\n".join([*lines, *(f"  WARNING {finding}" for finding in self.findings)])

    def headline(self) -> str:
        minutes = self.steps * self.spec.dt / 60
        return (
            f"{self.path}: {self.episodes} episodes, {self.steps:,} steps "
            f"({minutes:.1f} min at {1 / self.spec.dt:g} Hz), {self.size / 1e6:.1f} MB"
        )

    def lines(self) -> list[tuple[str, str]]:
        """(what, how much), for the terminal and for the page."""
        facts, steps = self.facts, max(1, self.steps)
        sources = np.array([fact.sources for fact in facts]).reshape(-1, len(SOURCES)).sum(0)
        tasks, robots = Counter(fact.task for fact in facts), Counter(fact.recorder for fact in facts if fact.recorder)
        ended = sum(fact.terminated for fact in facts)
        missing = sum(not fact.final_observed for fact in facts)
        return [
            ("success", self._success()),
            ("return", _spread([fact.total for fact in facts])),
            ("length", _spread([fact.steps for fact in facts]) + " steps"),
            ("endings", f"{ended} terminated, {self.episodes - ended} ran out of time, {missing} without a last frame"),
            ("decided by", ", ".join(f"{s} {100 * n / steps:.0f} %" for s, n in zip(SOURCES, sources, strict=True))),
            ("tasks", ", ".join(f"{text!r} {n}" for text, n in tasks.most_common())),
            ("recorded by", ", ".join(f"{robot} {n}" for robot, n in robots.most_common()) or "not stated"),
            ("unstable", f"{self.unstable} episodes"),
            ("gaps", f"{len(self.gaps)} numbers missing, first {self.gaps[0]}" if self.gaps else "none"),
            ("damage", f"{len(self.damage)} problems, first {self.damage[0]}" if self.damage else "none"),
        ]

    def _success(self) -> str:
        if self.success is None:
            return "unknown in every episode"
        known = sum(fact.success is not None for fact in self.facts)
        rate, low, high = (100 * x for x in (self.success.mean, self.success.low, self.success.high))
        return f"{rate:.1f} % [{low:.1f}, {high:.1f}] of {known} episodes where it is known"

    def _keys(self) -> list[str]:
        """One line per key and per dimension: shape, unit, range against limits."""
        spec, steps = self.spec, max(1, self.steps)
        lines = [f"  state   float32[frames, {spec.state_dim}]"]
        low, high = _range(self.facts, spec.state_dim)
        for i, (name, unit) in enumerate(zip(spec.state_names, spec.state_units, strict=True)):
            lines.append(f"    {i:>3} {name} [{unit}]  {low[i]:.4g} to {high[i]:.4g}")
        lines.append(f"  action  float32[steps, {spec.action_dim}]")
        beyond = sum((fact.beyond for fact in self.facts), np.zeros(spec.action_dim))
        for part in spec.parts:
            share = 100 * beyond[part.slice].max() / steps
            outside = f", outside in {share:.1f} % of steps" if share else ""
            limits = ", ".join(f"{lo:g}..{hi:g}" for lo, hi in zip(part.low, part.high, strict=True))
            dims = f"{part.start}" if part.stop - part.start == 1 else f"{part.start}-{part.stop - 1}"
            what = f"{dims} {part.name} ({part.kind}, {part.reference}) [{part.unit}]"
            lines.append(f"    {what}  {limits}{outside}")
        return lines + [
            f"  images  {c.name} uint8[frames, {c.height}, {c.width}, 3] {c.encoding}" for c in spec.cameras
        ]


def summarize(store: EpisodeStore, looked_at: int = 0) -> StoreSummary:
    """Reads every episode's low-dimensional part, and the images of `looked_at` episodes, evenly spread.

    What is damaged is in `.damage` and counted nowhere else.
    """
    facts, measures, damage, seen = [], [], [], []
    names = store.names()
    looked = set(names[:: max(1, -(-len(names) // looked_at))]) if looked_at and store.spec.cameras else set()
    for name in names:
        try:
            episode = store.read(name, images=name in looked, decisions=False)
        except EpisodeDamaged as error:
            damage += error.problems
            continue
        facts.append(facts_of(name, episode))
        measures.append(measure(name, episode))
        seen += frames(name, episode) if name in looked else []
    numbers = [int(name[:8]) for name in names]
    gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    found = tuple(judge(store.spec, measures, seen))
    return StoreSummary(store.path, store.spec, tuple(facts), tuple(damage), tuple(gaps), store.size(), found)


def facts_of(name: str, episode: Episode) -> Facts:
    spec = episode.spec
    source = np.zeros(len(episode), np.uint8) if episode.source is None else episode.source
    slack = 1e-6 * (spec.high - spec.low)  # a limit that was rounded to float32 is kept
    outside = (episode.actions < spec.low - slack) | (episode.actions > spec.high + slack)
    return Facts(
        name=name,
        steps=len(episode),
        total=float(episode.rewards.sum()),
        success=episode.success,
        terminated=episode.terminated,
        final_observed=episode.final_observed,
        unstable=bool(episode.provenance.get("unstable", False)),
        task=episode.task,
        recorder=_recorder(episode.provenance.get("robot")),
        sources=tuple(int((source == i).sum()) for i in range(len(SOURCES))),
        beyond=outside.sum(0),
        state_low=episode.states.min(0),
        state_high=episode.states.max(0),
    )


def _recorder(robot: Any) -> str:
    """The robot's module without its package; its full config stays in the episode's provenance."""
    name = robot.get("module", "") if isinstance(robot, Mapping) else robot
    return str(name or "").rpartition(".")[2]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "no episodes"
    return f"mean {np.mean(values):.3g}, median {np.median(values):.3g}, {min(values):.3g} to {max(values):.3g}"


def _range(facts: Sequence[Facts], dims: int) -> tuple[np.ndarray, np.ndarray]:
    if not facts:
        return np.full(dims, np.nan), np.full(dims, np.nan)
    return np.min([fact.state_low for fact in facts], 0), np.max([fact.state_high for fact in facts], 0)
