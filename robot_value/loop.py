"""The one loop: it drives simulation, replay and an arm. Latency, queues and stopping belong to the Robot."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from .episode_builder import EpisodeBuilder
from .episodes.store import EpisodeStore
from .protocols import ChunkFollower, Robot, Watcher
from .steering.followers import plain
from .steering.steerer import Steerer
from .types import Decision, Episode, Observation, Outcome

BACKLOG = 64  # episodes that may wait for the disk before the robots do


@dataclass(frozen=True)
class EpisodeSummary:
    seed: int
    success: bool
    steps: int  # executed control steps
    reward: float  # undiscounted sum
    unstable: bool  # the simulator warned: neither a success nor a failure
    reasons: Mapping[str, int]  # Decision.reason -> decisions


def run_episodes(
    robot: Robot,
    steerer: Steerer,
    follower: ChunkFollower | None = None,  # None: plain
    watchers: Sequence[Watcher] = (),
    tasks: Sequence[str] | None = None,  # one per seed; None: the robot's default task
    seeds: Sequence[int] = (0,),
    progress: bool = False,
) -> list[EpisodeSummary]:
    """One episode per seed, in waves of the robot's batch size, summaries in the order of `seeds`.

    A watcher with `wants_episodes = False` gets decisions only; without any other watcher no episode is put together.
    """
    steerer.check(robot.spec)
    follower = follower or plain.Config().build()
    if hasattr(follower, "check"):
        follower.check(robot.spec)
    tasks = [""] * len(seeds) if tasks is None else list(tasks)
    if len(tasks) != len(seeds):
        raise ValueError(f"tasks: expected one per seed ({len(seeds)}), got {len(tasks)}")
    summaries: list[EpisodeSummary] = []
    every = any(map(_reads, watchers))
    with pictures(robot, every), tqdm(total=len(seeds), desc="episodes", unit="ep", disable=not progress) as bar:
        for start in range(0, len(seeds), robot.batch_size):
            part = slice(start, start + robot.batch_size)
            summaries += _run_wave(robot, steerer, follower, watchers, tasks[part], [int(s) for s in seeds[part]], bar)
    return summaries


@contextmanager
def pictures(robot: Robot, every: bool) -> Iterator[None]:
    """Of every control step, or of those that a decision sees: rendering is dear.

    For robots that can leave pictures out: simulated ones, by an attribute `every_picture`.
    """
    before = getattr(robot, "every_picture", None)
    if before is not None:
        robot.every_picture = every
    try:
        yield
    finally:
        if before is not None:
            robot.every_picture = before


def _reads(watcher: Watcher) -> bool:
    return getattr(watcher, "wants_episodes", True)


def _run_wave(
    robot: Robot,
    steerer: Steerer,
    follower: ChunkFollower,
    watchers: Sequence[Watcher],
    tasks: list[str],
    seeds: list[int],
    bar: tqdm,
) -> list[EpisodeSummary]:
    spare = robot.batch_size - len(seeds)  # rows without an episode of their own start like the last one, and rest
    observation = robot.reset(tasks + tasks[-1:] * spare, seeds + seeds[-1:] * spare)
    steerer.reset()
    active = np.arange(robot.batch_size) < len(seeds)
    wave = _Wave(robot, seeds, observation, watchers)
    while active.any():
        decision = _only(steerer(observation, active), active)
        outcome = robot.execute(decision, follower)
        for watcher in watchers:
            watcher.on_decision(observation, decision, outcome)
        bar.update(wave.add(decision, outcome, active))
        observation, active = outcome.observation, active & ~outcome.done
    return wave.summaries()


def _only(decision: Decision, active: np.ndarray) -> Decision:
    """Spare rows are told to execute nothing, so that nobody simulates or counts them."""
    return replace(decision, execute=np.where(active, decision.execute, 0))


class _Wave:
    """The books of one batch of episodes."""

    def __init__(self, robot: Robot, seeds: list[int], observation: Observation, watchers: Sequence[Watcher]) -> None:
        self.robot, self.seeds, batch = robot, seeds, robot.batch_size
        self.steps, self.reward = np.zeros(batch, np.int64), np.zeros(batch)
        self.success, self.unstable = np.zeros(batch, bool), np.zeros(batch, bool)
        self.reasons: list[Counter[str]] = [Counter() for _ in range(batch)]
        self.readers = list(filter(_reads, watchers))
        rows = range(len(seeds)) if self.readers else ()
        self.builders = {row: EpisodeBuilder(robot.spec, row, observation) for row in rows}

    def add(self, decision: Decision, outcome: Outcome, active: np.ndarray) -> int:
        """Book one decision; hand finished episodes to the watchers; how many episodes ended."""
        self.steps += outcome.executed_valid.sum(1)
        self.reward += (outcome.rewards * outcome.executed_valid).sum(1)
        self.success |= outcome.success & active
        self.unstable |= outcome.unstable & active
        for row in np.flatnonzero(active):
            self.reasons[row][decision.reason[row]] += 1
            if row in self.builders:
                self.builders[row].add(decision, outcome)
        ended = np.flatnonzero(active & outcome.done)
        for row in ended:
            if self.readers and self.steps[row]:  # broken at reset: there is nothing to keep
                episode = self.builders.pop(row).build(self._provenance(row, decision))
                for watcher in self.readers:
                    watcher.on_episode(episode)
        return len(ended)

    def summaries(self) -> list[EpisodeSummary]:
        columns = zip(self.seeds, self.success, self.steps, self.reward, self.unstable, self.reasons, strict=False)
        return [
            EpisodeSummary(seed, bool(success), int(steps), float(reward), bool(unstable), dict(reasons))
            for seed, success, steps, reward, unstable, reasons in columns
        ]

    def _provenance(self, row: int, decision: Decision) -> dict[str, Any]:
        known = {"seed": self.seeds[row], "unstable": bool(self.unstable[row]), "versions": dict(decision.versions)}
        latents = getattr(self.robot, "latents", None)  # what a simulated expert's episode drew
        return known if latents is None else known | {"latents": latents[row]}


@dataclass(frozen=True)
class Recorder:
    """A Watcher that appends every finished episode to a store.

    As a context (`with Recorder(store) as recorder`) it writes in a thread, so that robots need not wait for the disk;
    what could not be written is raised at a later episode or at the end. Else `on_episode` returns when it is stored.
    """

    store: EpisodeStore
    provenance: Mapping[str, Any] = field(default_factory=dict)  # added to what the loop knows
    decisions: bool = True  # keep candidates and scores with the episode
    _writer: list[ThreadPoolExecutor] = field(default_factory=list, repr=False)  # at most one
    _unwritten: deque[Future] = field(default_factory=deque, repr=False)

    def __enter__(self) -> Recorder:
        self._writer.append(ThreadPoolExecutor(1, "recorder"))
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.pop().shutdown(wait=True)
        self._settle(0)

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        """Nothing: an episode is written when it has ended."""

    def on_episode(self, episode: Episode) -> None:
        kept = episode.decisions if self.decisions else ()
        full = replace(episode, decisions=kept, provenance={**self.provenance, **episode.provenance})
        if not self._writer:
            self.store.append(full)
            return
        self._unwritten.append(self._writer[0].submit(self.store.append, full))
        self._settle(BACKLOG)

    def _settle(self, backlog: int) -> None:
        """Wait until at most `backlog` episodes are unwritten; errors of the writer surface here."""
        while self._unwritten and (len(self._unwritten) > backlog or self._unwritten[0].done()):
            self._unwritten.popleft().result()
