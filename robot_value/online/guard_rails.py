"""What keeps learning from doing harm: gradient steps that are not made, and versions that are shown to be worse.

A step whose loss or gradient is not a number, or explodes, is refused before it is made: weights, optimizer, averages
and their counters stay as they are to the bit, while windows and noise move on. (An update of a critic and a policy
together ends there: what it has already made whole, stands.) A version is worse than another when it fails evaluation
seeds that the other solves. Of l such seeds, and w that only the new version solves, says

    evidence(w, l) = 2^(w + l) * 2 * integral from 1/2 to 1 of p^l (1 - p)^w dp

how much likelier they are if it lost more than half of them on average. Where it is no worse, that is a
supermartingale which begins at 1: it exceeds 1 / alpha with chance <= alpha, however often one looks (Ville 1939).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import betainc, betaln
from torch import Tensor

from ..curves import NonFinite
from ..learners import Learner, Part
from ..mixing import Sampler
from ..sampling import ChunkBatch

MEMORY = 100  # losses and gradient norms whose median is what is usual
FEWEST = 20  # of them, before anything but a number that is not finite can be unusual


@dataclass(frozen=True)
class GuardRails:
    explosion: float = 1000.0  # a loss or gradient norm of so many times its usual size (at least 1) is refused
    refusals: int = 20  # in a row, then the run stops
    alpha: float = 0.05  # chance that a version which is no worse than the last is rolled back; 0: none ever is

    def __post_init__(self) -> None:
        if not self.explosion > 1 or self.refusals < 1 or not 0 <= self.alpha < 1:
            raise ValueError(
                "rails: expected explosion > 1, refusals of at least 1 and 0 <= alpha < 1, got "
                f"{self.explosion}, {self.refusals} and {self.alpha}"
            )


class Refused(ArithmeticError):
    """A gradient step that is not made; the message says why."""


class Diverged(NonFinite):
    """Learning went wrong for good; checkpoints that were saved are good."""


@dataclass
class Rails:
    """Between a learner and its gradient steps. What it remembers is saved with the weights."""

    config: GuardRails
    learner: Learner
    refused: int = 0  # gradient steps, over the whole run
    in_a_row: int = 0
    usual: dict[str, list[float]] = field(default_factory=dict)  # "critic loss" -> the last ones that were made

    def __post_init__(self) -> None:
        for name, part in self.learner.parts.items():
            owner = part if hasattr(part, "before_step") else part.model
            owner.before_step = partial(self.judge, name)

    def update(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor] | None:
        """The learner's metrics; None where a step was refused. Raises Diverged after too many in a row."""
        try:
            metrics = self.learner.update(batch, generator)
        except Refused as refusal:
            self.refused, self.in_a_row = self.refused + 1, self.in_a_row + 1
            if self.in_a_row >= self.config.refusals:
                raise Diverged(
                    f"the last {self.in_a_row} gradient steps were refused, the last one for its {refusal}; the "
                    "checkpoints are good; use a smaller learning rate, look at the data (`robot-value data inspect`), "
                    "or, if the loss just became larger, raise --rails.explosion"
                ) from refusal
            return None
        self.in_a_row = 0
        return metrics

    def judge(self, part: str, loss: Tensor, norm: Tensor) -> None:
        """Before a gradient step, after its norm is known. Reads two numbers from the device: a GPU waits here."""
        values = {f"{part} {name}".strip(): float(value) for name, value in (("loss", loss), ("gradient", norm))}
        for name, value in values.items():
            largest = self._largest(name)
            if not abs(value) <= largest:
                raise Refused(f"{name}: expected at most {largest:.3g}, got {value:.3g}")
        for name, value in values.items():
            self.usual[name] = [*self.usual.get(name, ())[-MEMORY + 1 :], value]

    def _largest(self, name: str) -> float:
        known = self.usual.get(name, ())
        if len(known) < FEWEST:
            return sys.float_info.max
        return self.config.explosion * max(1.0, float(np.median(np.abs(known))))

    def state(self) -> dict[str, Any]:
        return {"refused": self.refused, "in_a_row": self.in_a_row, "usual": self.usual}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.refused, self.in_a_row, self.usual = state["refused"], state["in_a_row"], dict(state["usual"])


@dataclass
class Railed:
    """What a Run saves of its sampler, and the rails' memory along with it."""

    sampler: Sampler
    rails: Rails

    def state(self) -> dict[str, Any]:
        return {"sampler": self.sampler.state(), "rails": self.rails.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state(state["sampler"])
        self.rails.load_state(state["rails"])


def check_finite(parts: Iterable[Part]) -> None:
    """Raise Diverged rather than save or play weights that are not numbers."""
    for part in parts:
        for name, tensor in part.deployed.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise Diverged(f"{name}: expected finite weights, got others; the checkpoints before are good")


def evidence(wins: int, losses: int) -> float:
    """That a version is worse, from seeds that only it solved and seeds that only the other one solved."""
    above = max(betainc(wins + 1, losses + 1, 0.5), sys.float_info.min)  # share of p^l (1 - p)^w above p = 1/2
    log = math.log(2) * (wins + losses + 1) + betaln(losses + 1, wins + 1) + math.log(above)
    return math.exp(min(log, 700.0))


def evidence_of(success: Sequence[bool], against: Sequence[bool]) -> float:
    """Of paired outcomes; where there are fewer of one, only those count."""
    pairs = list(zip(success, against, strict=False))
    return evidence(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
