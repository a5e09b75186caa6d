"""System 2 (Hume, arXiv 2505.21432): a Steerer that thinks in a thread of its own while the robot moves.

    hand over the newest observation ─► thread: Steerer ─► decision, made at `step`, in force from start_step on
    meanwhile the chunk in force goes on; followers splice, blend and fast enter the new one by executed steps

Nothing queues: the thread gets the newest observation whenever it is free, and the caller the latest finished decision.
No decision is ever about a plan that was replaced while it was made, because one is in the making at a time. With
`lockstep` the caller waits for each decision, so that simulated runs repeat bit for bit; it still takes effect `lag`
steps late. A chunk must last longer than a thought: else what was thought ahead is out of date when it is finished.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..types import Decision, Observation, Spec
from .followers._recent import Recent
from .steerer import Steerer


@dataclass(frozen=True)
class Thought:
    """A finished decision and its stamps."""

    decision: Decision
    observation: Observation  # it was made from
    began: float  # s, on ThinkAhead's clock
    ended: float  # s


@dataclass(frozen=True)
class Rates:
    """What was measured since ThinkAhead was made."""

    decisions: int
    per_second: float  # decisions/s from the first hand-over to the last finished decision
    thinking: float  # s per decision, mean
    waits: int  # times robots waited because a chunk would have run out; an episode's first decision is none
    waited: float  # s, in all of these
    age_p50: float  # control steps since its observation that the latest decision was old when robots asked
    age_p95: float


@dataclass
class _Books:
    decisions: int = 0
    busy: float = 0.0  # s
    began: float = np.nan  # s
    ended: float = np.nan  # s
    waits: int = 0
    waited: float = 0.0  # s
    ages: Counter[int] = field(default_factory=Counter)  # steps -> times

    def add(self, thought: Thought) -> None:
        self.began = thought.began if self.decisions == 0 else self.began
        self.ended = thought.ended
        self.decisions += 1
        self.busy += thought.ended - thought.began

    def rates(self) -> Rates:
        if self.decisions == 0:
            raise ValueError("rates: expected at least one finished decision, got none; run it first")
        ages = np.repeat(list(self.ages), list(self.ages.values()))
        return Rates(
            decisions=self.decisions,
            per_second=self.decisions / (self.ended - self.began),
            thinking=self.busy / self.decisions,
            waits=self.waits,
            waited=self.waited,
            age_p50=float(np.quantile(ages, 0.5)),
            age_p95=float(np.quantile(ages, 0.95)),
        )


@dataclass
class ThinkAhead:
    """Drop-in for a Steerer in `loop.run_episodes`; the follower must splice (splice, blend, ensemble or fast)."""

    steerer: Steerer
    every: int = 1  # control steps between two calls, where it does not run in lockstep
    lag: int = 0  # L, steps after its observation at which a decision takes effect; the policy is told them: committed
    lockstep: bool = False  # wait for every decision, k steps apart: reproducible
    clock: Callable[[], float] = time.perf_counter  # s
    latest: Thought | None = None
    _recent: Recent = field(default_factory=Recent, repr=False)  # what was decided, without steps that mean nothing
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "think"), repr=False)
    _thinking: Future | None = None
    _books: _Books = field(default_factory=_Books, repr=False)

    def __post_init__(self) -> None:
        horizon, ahead = self.steerer.policy.spec.horizon, self.steerer.execute if self.lockstep else self.every
        if self.lag < 0 or ahead < 1 or self.lag + ahead > horizon:
            raise ValueError(
                f"expected lag >= 0, every >= 1 and lag + steps between calls <= {horizon} (horizon), got lag="
                f"{self.lag} and {ahead} steps; a chunk must last until the next decision takes effect"
            )

    def check(self, spec: Spec) -> None:
        self.steerer.check(spec)

    def load(self, version: Path) -> None:
        self.steerer.load(version)

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Forget what `rows` (None: all) were told; what is being thought is waited for and forgotten with it."""
        if self._thinking is not None:
            self._take()
        if rows is None:
            self._recent, self.latest = Recent(), None
        for memory in self._recent.told:
            memory.forget(rows)
        self.steerer.reset(rows)

    def close(self) -> None:
        """Ends the thread, after what it is thinking."""
        self._thread.shutdown()

    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        """The latest finished decision at once; it blocks only for a robot that would have nothing to execute.

        Raises what the thread raised, at the next call.
        """
        if observation.committed.any():
            raise ValueError(
                "committed: expected 0 pending steps from the robot of a ThinkAhead, got "
                f"{observation.committed.tolist()}; this robot delays decisions itself: give it the plain Steerer"
            )
        active = np.ones(observation.batch_size, bool) if active is None else active
        self._recent.step_to(observation)
        if self._thinking is not None and self._thinking.done():
            self._take()
        if self._thinking is None:
            self._hand_over(observation, active)
        if self.lockstep:
            self._take()
        if not (self._left(observation) > 0)[active].all():
            self._wait(observation, active)
        self._books.ages.update((observation.step - self.latest.observation.step)[active].tolist())
        if self.lockstep:
            return self.latest.decision
        return replace(self.latest.decision, execute=np.minimum(self._left(observation), self.every))

    @property
    def rates(self) -> Rates:
        return self._books.rates()

    def _hand_over(self, observation: Observation, active: np.ndarray) -> None:
        """Start thinking; what will be executed during `lag` steps is told as committed, as far as it is known."""
        if self.lag and self._recent.told:
            pending = np.nan_to_num(self._recent.in_force(observation)[:, : self.lag])
            committed = np.minimum(self._left(observation), self.lag)
            observation = replace(observation, pending=pending, committed=committed)
        self._thinking = self._thread.submit(self._think, observation, active.copy())

    def _think(self, observation: Observation, active: np.ndarray) -> Thought:
        began = self.clock()
        return Thought(self.steerer(observation, active), observation, began, self.clock())

    def _take(self) -> None:
        """Wait for what is being thought, and book it."""
        thinking, self._thinking = self._thinking, None
        self.latest = thought = thinking.result()
        self._books.add(thought)
        decision, horizon = thought.decision, thought.decision.chunk.shape[1]
        short = decision.execute < self.steerer.execute  # the chunk means no more than these steps
        means = np.where(short, decision.execute, horizon - thought.observation.committed)  # int64[B]
        chunk = np.where((np.arange(horizon) < means[:, None])[..., None], decision.chunk, np.float32(np.nan))
        self._recent.book(thought.observation, replace(decision, chunk=chunk))

    def _wait(self, observation: Observation, active: np.ndarray) -> None:
        first, began = self.latest is None, self.clock()
        while not (self._left(observation) > 0)[active].all():
            if self._thinking is None:
                self._hand_over(observation, active)
            self._take()
        if not first:
            self._books.waits += 1
            self._books.waited += self.clock() - began

    def _left(self, observation: Observation) -> np.ndarray:
        """int64[B]: control steps from the observation's on for which something is decided."""
        if not self._recent.told:
            return np.zeros(observation.batch_size, np.int64)
        known = ~np.isnan(self._recent.in_force(observation)).any(-1)  # [B, H]
        return known.cumprod(1).sum(1)
