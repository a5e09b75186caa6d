"""Does the critic's number mean anything? Its value at a decision against what then really happened.

Realised return of decision j of an episode: G_j = Σ_i γ^i r_{j,i} + γ^{k_j} G_{j+1}, over the k_j executed steps.
Reliability in bins and ECE: Guo et al. 2017, for returns; AUROC: does a success start with a higher value?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .statistics import auroc, reliability
from .types import Decision, Episode, Observation, Outcome


@dataclass(frozen=True)
class DecisionTable:
    """One row per executed decision, in the order they happened."""

    training: np.ndarray  # int64[D], which training seed's models decided
    episode: np.ndarray  # int64[D], environment seed
    step: np.ndarray  # int64[D], control step of the decision
    value: np.ndarray  # float64[D], critic's value of the executed candidate; NaN where it was not scored
    reward: np.ndarray  # float64[D], discounted reward inside the executed steps
    executed: np.ndarray  # int64[D], executed control steps

    def returns(self, gamma: float) -> np.ndarray:
        """float64[D]: realised discounted return from each decision to its episode's end."""
        realised = np.zeros(len(self.episode))
        order = np.lexsort((self.step, self.episode, self.training))[::-1]  # each episode, last decision first
        following, key = 0.0, None
        for row in order:
            here = (self.training[row], self.episode[row])
            following = following if here == key else 0.0
            following = self.reward[row] + gamma ** self.executed[row] * following
            realised[row], key = following, here
        return realised

    def first(self) -> np.ndarray:
        """int64[episodes]: the row of each episode's first decision."""
        order = np.lexsort((self.step, self.episode, self.training))
        keys = np.stack([self.training[order], self.episode[order]])
        new = np.ones(len(order), bool)
        new[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
        return order[new]

    def where(self, mask: np.ndarray) -> DecisionTable:
        """The chosen decisions only."""
        return DecisionTable(**{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})


def join(tables: Sequence[DecisionTable]) -> DecisionTable:
    """Tables below each other."""
    names = DecisionTable.__dataclass_fields__
    return DecisionTable(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})


@dataclass
class DecisionLog:
    """A Watcher that keeps what evaluation needs of every decision of a live row."""

    wants_episodes = False  # the loop need not put episodes together for us
    gamma: float
    training: int = 0
    rows: list[tuple[int, int, float, float, int]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # stage -> s of each batch of decisions

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        valid = outcome.executed_valid  # bool[B, k]
        discounted = (outcome.rewards * valid * self.gamma ** np.arange(valid.shape[1])).sum(1)
        live = valid.any(1)  # rows that are done stay as they are and execute nothing
        for row in np.flatnonzero(live):
            key = (int(observation.episode[row]), int(observation.step[row]))
            self.rows.append((*key, _executed_value(decision, row), float(discounted[row]), int(valid[row].sum())))
            self.reasons[decision.reason[row]] += 1
        for stage, seconds in decision.seconds.items():
            self.seconds.setdefault(stage, []).append(seconds)

    def on_episode(self, episode: Episode) -> None:
        """Nothing: the loop's summaries hold an episode's result."""

    def table(self) -> DecisionTable:
        columns = list(zip(*self.rows, strict=True)) or [()] * 5
        types = (np.int64, np.int64, float, float, np.int64)
        arrays = [np.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        return DecisionTable(np.full(len(self.rows), self.training, np.int64), *arrays)


def calibration(table: DecisionTable, success: np.ndarray, gamma: float, bins: int = 10) -> dict[str, Any] | None:
    """Reliability of value against realised return and AUROC of the first value for success; None without values.

    `success` bool[episodes] belongs to the episodes in the order of `table.first()`.
    """
    known = np.isfinite(table.value)
    if not known.any():
        return None
    diagram = reliability(table.value[known], table.returns(gamma)[known], bins)
    first = table.first()
    if len(first) != len(success):
        raise ValueError(f"success: expected one per episode ({len(first)}), got {len(success)}")
    scored = np.isfinite(table.value[first])
    return {
        "gamma": gamma,
        "decisions": int(known.sum()),
        "predicted": diagram.predicted.tolist(),
        "realised": diagram.realised.tolist(),
        "count": diagram.count.tolist(),
        "ece": diagram.ece,
        "auroc_first_value": auroc(table.value[first][scored], np.asarray(success, bool)[scored]),
    }


def _executed_value(decision: Decision, row: int) -> float:
    """The critic's value of the chunk that was executed, where that chunk is one it scored."""
    index = int(decision.index[row])
    in_range = 0 <= index < decision.value.shape[1]
    return float(decision.value[row, index]) if in_range else float("nan")
