"""The decisions that still speak for a control step, aligned by executed steps: index = observation.step - start_step.

Steps are counted where they are executed, never guessed from a latency: a decision that comes late is entered at the
step that is due, and one that is meant for later waits until its start_step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...types import Decision, Observation, Spec
from ..memory import Memory

NOBODY = np.zeros(0, np.int64)


@dataclass
class Recent:
    told: list[Memory] = field(default_factory=list)  # oldest first
    dropped: int = 0  # decisions before told[0]
    step: np.ndarray | None = None  # int64[B], when it was last asked
    shown: Memory | None = None  # the decision it was shown last

    def add(self, observation: Observation, decision: Decision) -> np.ndarray:
        """Book a decision; being shown the same one again, as at every control step, changes nothing.

        Returns int64[R], the robots that have started again since the last call.
        """
        restarted, shown = self.step_to(observation), Memory()
        shown.keep(observation, decision)
        known = np.zeros(observation.batch_size, bool) if self.shown is None else _same(self.shown, shown)
        known[restarted] = False
        self.shown = shown
        if not known.all():
            self.book(observation, decision, np.flatnonzero(known))
        return restarted

    def book(self, observation: Observation, decision: Decision, known: np.ndarray = NOBODY) -> None:
        """Remember a decision about `observation`, which may be an earlier one, but for the rows `known` int64[R]."""
        new = Memory()
        new.keep(observation, decision)
        new.forget(known)
        self.told.append(new)
        self._drop(len(self.told) - 2 * decision.chunk.shape[1])  # at most H cover a step, at most H wait for theirs

    def step_to(self, observation: Observation) -> np.ndarray:
        """Forget what was said to other robots, or to robots that have started again; int64[R] are the latter."""
        if self.step is None or len(self.step) != observation.batch_size:
            self._drop(len(self.told))
            self.step, self.shown = observation.step, None
        restarted = np.flatnonzero(observation.step < self.step)
        for memory in self.told:
            memory.forget(restarted)
        self.step = observation.step.copy()
        return restarted

    def said(self, observation: Observation) -> np.ndarray:
        """float32[M, B, H, A]: what each of M decisions says for the steps from the observation's on, NaN: nothing."""
        while len(self.told) > 1 and np.isnan(self.told[0].recall(observation, observation.step)).all():
            self._drop(1)
        return np.stack([memory.recall(observation, observation.step) for memory in self.told])

    def in_force(self, observation: Observation) -> np.ndarray:
        """float32[B, H, A]: at each step from the observation's on, the newest decision that has started by then."""
        plan, *later = self.said(observation)
        for newer in later:
            plan = np.where(np.isnan(newer), plan, newer)
        return plan

    def owner(self, said: np.ndarray) -> np.ndarray:
        """int64[B]: index in `said` of the newest decision that has started, -1 where none has."""
        known = ~np.isnan(said[:, :, 0]).any(-1)  # [M, B]
        return np.where(known, np.arange(len(said))[:, None], -1).max(0)

    def _drop(self, count: int) -> None:
        del self.told[: max(count, 0)]
        self.dropped += max(count, 0)


def _same(a: Memory, b: Memory) -> np.ndarray:
    """bool[B]: robots whose decision is one and the same."""
    chunk = (a.chunk == b.chunk) | (np.isnan(a.chunk) & np.isnan(b.chunk))
    return (a.start_step == b.start_step) & (a.episode == b.episode) & chunk.all((1, 2))


def expect_known(action: np.ndarray, observation: Observation, decision: Decision) -> np.ndarray:
    """`action` float32[B, A], or ValueError where a robot that is to move has nothing to execute."""
    lost = np.flatnonzero(~np.isfinite(action).all(1) & (decision.execute > 0))
    if len(lost):
        raise ValueError(
            f"robots {lost.tolist()} at step {observation.step[lost].tolist()}: expected a decision that covers this "
            f"step, got one of {decision.chunk.shape[1]} steps from step {decision.start_step[lost].tolist()} on; a "
            "robot that outlives its chunk must stop, not guess"
        )
    return action.astype(np.float32, copy=False)


def expect_spec(spec: Spec | None) -> Spec:
    if spec is None:
        raise ValueError("expected to know what actions mean before mixing chunks, got no spec; call check(spec) first")
    return spec
