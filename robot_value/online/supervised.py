"""A scripted expert plays the human: it takes over while the robot works, corrects, and gives the arm back.

Stands where the Steerer stands, and asks it at every decision. Where the expert has the arm, the decision's reason is
"human", its chunk is what the policy would have done, and the executed steps carry source HUMAN. The robot is built
with `driver="shared"`: its own expert drives the rows that `hand_over` names, at control rate, begun anew each time.
What makes people take over is kept simple: the value falls, nothing gets better, or (the baseline) a coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from .. import randomness
from ..types import Decision, Observation, Spec

if TYPE_CHECKING:
    from ..protocols import Critic
    from ..steering.steerer import Steerer

REASON = "human"  # Decision.reason where the expert has the arm


class SharedRobot(Protocol):
    """What a Robot built with `driver="shared"` can do beside."""

    def hand_over(self, human: np.ndarray) -> None:
        """bool[B]: rows that the expert drives from now on; one that it did not drive before is begun anew."""
        ...


@dataclass(frozen=True)
class Config:
    drop: float = 0.1  # takes over where the value is this far below its highest so far, units of return; 0: never
    stall: int = 0  # takes over after so many decisions without a new highest value; 0: never
    probability: float = 0.0  # takes over by chance before a decision, whatever the value says (RLIF's random baseline)
    hold: int = 4  # decisions that the expert keeps the arm; then the policy has at least one
    recover: bool = False  # it keeps the arm longer, until the value is where it was when it fell or stalled
    judge: str = ""  # checkpoint of the critic that is watched, the same over the run; empty: the one that steers

    def __post_init__(self) -> None:
        if min(self.drop, self.stall, self.probability) < 0 or self.probability > 1 or self.hold < 1:
            raise ValueError(
                "supervisor: expected drop and stall >= 0, probability in [0, 1] and hold >= 1, got "
                f"{self.drop}, {self.stall}, {self.probability} and {self.hold}"
            )
        if not (self.drop or self.stall or self.probability):
            raise ValueError("supervisor: expected drop, stall or probability above 0, got none; it would never act")

    @property
    def watches(self) -> bool:
        """Whether a value is needed."""
        return bool(self.drop or self.stall or self.recover)

    def build(self, steerer: Steerer, robot: SharedRobot, seed: int) -> Supervised:
        return Supervised(self, steerer, robot, seed, _judge(self.judge) if self.judge else None)


class Supervised:
    def __init__(
        self,
        config: Config,
        steerer: Steerer,
        robot: SharedRobot,
        seed: int,  # key of the chances
        judge: Critic | None = None,  # whose value is watched; None: the steerer's critic
    ) -> None:
        if config.watches and judge is None and steerer.critic is None:
            raise ValueError(
                "supervisor: expected a critic to watch, got none; give judge=CHECKPOINT or a critic that steers, "
                "or drop=0 with a probability"
            )
        self.config, self.steerer, self.robot, self.seed, self.judge = config, steerer, robot, seed, judge
        self._watch: Watch | None = None

    def check(self, spec: Spec) -> None:
        self.steerer.check(spec)

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """All rows begin new episodes (None), or these do."""
        self.steerer.reset(rows)
        if rows is None:
            self._watch = None
        elif self._watch is not None:
            self._watch.forget(rows)

    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        decision = self.steerer(observation, active)
        self._watch = self._watch or Watch(self.config, observation.batch_size)
        draws = randomness.generators(self.seed, observation.episode, observation.step, "supervisor")
        chance = np.array([draw.random() for draw in draws])
        human = self._watch.human(self._value(observation, decision), chance)
        human &= True if active is None else active
        self.robot.hand_over(human)
        if human.any():
            self.steerer.reset(np.flatnonzero(human))  # what it means now is not what will be executed
        reason = tuple(REASON if mine else why for mine, why in zip(human, decision.reason, strict=True))
        return replace(decision, reason=reason)

    @torch.no_grad()
    def _value(self, observation: Observation, decision: Decision) -> np.ndarray:
        """float64[B]: what the policy can expect from here, the mean over its candidates; NaN where nobody knows."""
        value = decision.value
        if self.judge is not None:
            chunks = torch.from_numpy(decision.candidates)
            context = self.judge.encode(observation, self.steerer.policy.encode(observation))
            lengths = torch.full(chunks.shape[:2], chunks.shape[2])
            value = self.judge.score(context, chunks.nan_to_num(), lengths).value.numpy()
            value = np.where(np.isfinite(decision.candidates).all((2, 3)), value, np.nan)
        known = np.isfinite(value)
        total = np.where(known, value, 0.0).sum(1, dtype=np.float64)
        return np.divide(total, known.sum(1), out=np.full(len(value), np.nan), where=known.any(1))


class Watch:
    """What the expert remembers of B episodes, decision by decision."""

    def __init__(self, config: Config, batch_size: int) -> None:
        self.config = config
        self.highest = np.full(batch_size, -np.inf)  # value, since the expert last let go
        self.since = np.zeros(batch_size, np.int64)  # decisions without a new highest value
        self.left = np.zeros(batch_size, np.int64)  # decisions that it keeps the arm for sure
        self.has = np.zeros(batch_size, bool)  # who has the arm

    def forget(self, rows: Sequence[int]) -> None:
        self.highest[rows], self.since[rows], self.left[rows], self.has[rows] = -np.inf, 0, 0, False

    def human(self, value: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """bool[B], who has the arm for the coming decision. value float64[B], chance float64[B] in [0, 1)."""
        had = self.has.copy()
        self.left[had] -= 1
        back = ~(value < self.highest) if self.config.recover else np.ones_like(had)
        released = had & (self.left <= 0) & back
        fresh = released | ~had & (value > self.highest)
        self.since = np.where(fresh, 0, self.since + 1)
        self.highest = np.where(fresh, np.fmax(value, -np.inf), self.highest)  # nothing, where nobody knows
        taken = ~had & self._wanted(value, chance)
        self.left[taken] = self.config.hold
        self.has = had & ~released | taken
        return self.has.copy()

    def _wanted(self, value: np.ndarray, chance: np.ndarray) -> np.ndarray:
        c = self.config
        fell = bool(c.drop) & (value < self.highest - c.drop)
        stalled = bool(c.stall) & (self.since >= (c.stall or 1))
        return fell | stalled | (chance < c.probability)


@cache
def _judge(checkpoint: str) -> Critic:
    from ..training import load_model

    return load_model(checkpoint)
