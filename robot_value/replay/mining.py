"""Which episodes and moments deserve a look, and which a training set should do with or without: all of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..episodes.findings import Finding, counted
from .label_errors import LabelError, label_errors
from .moments import Mark, action_surprise, top, value_surprise
from .onsets import Onsets, onsets
from .redundancy import Redundancy, redundancy
from .replayed import Replayed


@dataclass(frozen=True)
class Config:
    count: int = 20  # moments of each kind of surprise that are named
    apart: float = 1.0  # s between two of them in an episode
    alpha: float = 0.1  # chance that a success would be said to have a failure's onset
    rate: float = 0.05  # false discovery rate among label errors


@dataclass(frozen=True)
class Mined:
    """Everything but `action` and `redundancy` is empty without a critic."""

    critic: str | None  # who was asked
    worse: tuple[Mark, ...]  # what happened was worse than the critic thought
    better: tuple[Mark, ...]
    action: tuple[Mark, ...]  # what was done is none of the policy's candidates
    onsets: Onsets | None
    label_errors: tuple[LabelError, ...]
    redundancy: Redundancy

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All moments, kind by kind."""
        failing = (*self.onsets.onsets, *self.onsets.near_misses) if self.onsets else ()
        return (*self.worse, *self.better, *self.action, *failing)

    def to_json(self) -> dict[str, Any]:
        return {
            "critic": self.critic,
            **{name: [mark.to_json() for mark in getattr(self, name)] for name in ("worse", "better", "action")},
            "onsets": self.onsets.to_json() if self.onsets else None,
            "label_errors": [error.to_json() for error in self.label_errors],
            "redundancy": self.redundancy.to_json(),
        }

    def findings(self) -> list[Finding]:
        """What would hurt the next round of training; moments are no defects of a log."""
        return list(_findings(self))


def mine(replayed: Replayed, critic: str | None = None, config: Config = Config()) -> Mined:
    """`critic`: whose values are believed; the one that steered unless another is named."""
    critic = critic or replayed.main
    acted = top(replayed, "action", action_surprise(replayed), config.count, config.apart)
    if critic is None:
        return Mined(None, (), (), acted, None, (), redundancy(replayed))
    surprise = value_surprise(replayed, critic)
    return Mined(
        critic=critic,
        worse=top(replayed, "worse", -surprise, config.count, config.apart),
        better=top(replayed, "better", surprise, config.count, config.apart),
        action=acted,
        onsets=onsets(replayed, critic, config.alpha),
        label_errors=label_errors(replayed, critic, config.rate),
        redundancy=redundancy(replayed),
    )


def _findings(mined: Mined) -> Iterator[Finding]:
    """Wrong labels are warned about by check_labels, which asks no critic."""
    if repeated := mined.redundancy.repeated:
        yield Finding(f"{counted(repeated)} almost exactly like another one", "keep one of each", repeated)
