"""A Steerer that a robot can rely on: a failure in a network costs a decision, not the process, and is counted.

    error_fallback  an exception in policy or critic: the plain policy was asked again, with one candidate
    low_spread      the critic has no preference among the candidates: candidate 0
    Implausible     the chunk lies far outside the data in many dims (degrees for radians, mm for m)

Implausible, NoFiniteChunk and a second exception are raised: whoever drives the robot stops it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..normalize import SCALE_FLOOR, Statistics
from ..steering.confidence import deviation
from ..steering.selection import scored
from ..steering.steerer import NoFiniteChunk, Steerer
from ..types import Decision, Observation, Scores, Selection, Situation, Spec

FAR, MANY = 5.0, 0.2  # standard deviations, share of the action's dims: reliability.md F22
REMEMBERED = 512  # decisions that latencies and scores are told of


class Implausible(RuntimeError):
    """The chunk cannot be meant; whoever drives the robot must stop it."""


@dataclass
class Preference:
    """A gate around another one: a critic that scores all candidates alike has nothing to say."""

    gate: Any

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        use, why = self.gate(chunks, scores, selection, situation)
        alike = (deviation(scores.value, scored(scores, situation)) == 0).cpu().numpy() & use
        return use & ~alike, "low_spread" if alike.any() else why

    def reset(self, rows: Sequence[int] | None = None) -> None:
        if hasattr(self.gate, "reset"):
            self.gate.reset(rows)

    def check(self, steerer: Any, critic: Any) -> None:
        if hasattr(self.gate, "check"):
            self.gate.check(steerer, critic)


@dataclass
class Books:
    """What happened lately, for diagnostics."""

    decisions: int = 0
    errors: int = 0
    last_error: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))  # per decision
    values: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))  # lowest, highest

    def add(self, decision: Decision, seconds: float) -> None:
        self.decisions += 1
        self.reasons.update(decision.reason)
        self.seconds.append(seconds)
        known = decision.value[np.isfinite(decision.value)]
        if known.size:
            self.values.append((float(known.min()), float(known.max())))

    def latency(self, quantile: float) -> float:
        """s; NaN before the first decision."""
        seconds = list(self.seconds)
        return float(np.quantile(seconds, quantile)) if seconds else float("nan")


class Cautious:
    """Drop-in for the Steerer it holds, in `loop.run_episodes` and in ThinkAhead."""

    def __init__(
        self,
        steerer: Steerer,
        statistics: Statistics | None,  # of the policy's actions; None: any chunk is plausible
        clock: Callable[[], float] = time.perf_counter,  # s
        named: Mapping[str, str] | None = None,  # more versions for every decision to tell
    ) -> None:
        self.steerer, self.statistics, self.clock, self.books = steerer, statistics, clock, Books()
        self.named = dict(named or {})
        self.policy, self.execute = steerer.policy, steerer.execute
        self.plain = Steerer(
            steerer.policy, n=1, execute=steerer.execute, seed=steerer.seed, device=steerer.device, clock=steerer.clock
        )
        if steerer.critic is not None and steerer.selector.uses_critic:
            steerer.gate = Preference(steerer.gate)

    def check(self, spec: Spec) -> None:
        self.steerer.check(spec)

    def reset(self, rows: Sequence[int] | None = None) -> None:
        self.steerer.reset(rows)
        self.plain.reset(rows)

    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        began = self.clock()
        try:
            decision = self.steerer(observation, active)
        except NoFiniteChunk:
            raise
        except Exception as error:  # whatever a network raises, out of memory too
            self.books.errors += 1
            self.books.last_error = f"{type(error).__name__}: {error}"
            plain = self.plain(observation, active)
            decision = replace(plain, reason=("error_fallback",) * observation.batch_size)
        self._check(decision, active)
        self.books.add(decision, self.clock() - began)
        return replace(decision, versions=decision.versions | self.named)

    def _check(self, decision: Decision, active: np.ndarray | None) -> None:
        if self.statistics is None:
            return
        far = self._far(decision.chunk[:, : self.execute])
        far = far if active is None else np.where(active, far, 0)
        if (far > MANY).any():
            raise Implausible(
                f"chunk: expected actions like the data's, got {far.max():.0%} of the dims more than {FAR:g} standard "
                "deviations away; are the units of the robot's state those of the data?"
            )

    def _far(self, chunk: np.ndarray) -> np.ndarray:
        """float64[B]: share of dims in which a chunk [B, k, A] ever lies far outside the data."""
        scale = np.maximum(self.statistics.std, SCALE_FLOOR)
        return (np.abs(chunk - self.statistics.mean) > FAR * scale).any(1).mean(1)
