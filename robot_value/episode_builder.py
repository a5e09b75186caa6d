"""One robot's episode, put together from outcomes at control rate. A frame is never invented."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .types import Decision, Episode, Observation, Outcome, Spec


@dataclass
class EpisodeBuilder:
    spec: Spec
    row: int  # of the batch this episode comes from
    observation: Observation  # of the reset
    decisions: list[Decision] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, decision: Decision, outcome: Outcome) -> None:
        self.decisions.append(decision)
        self.outcomes.append(outcome)

    def build(self, provenance: dict[str, Any]) -> Episode:
        """T + 1 states: the reset's newest, then one per executed step of this row."""
        last, first = self.outcomes[-1], self.observation
        return Episode(
            spec=self.spec.choose(horizon=0, n_obs_steps=0),
            states=np.concatenate([first.state[self.row, -1:], self._join("states")]),
            images={
                name: np.concatenate(
                    [image[self.row, -1:], self._steps([outcome.images[name] for outcome in self.outcomes])]
                )
                for name, image in first.images.items()
            },
            actions=self._join("executed"),
            commanded=self._join("commanded"),
            rewards=self._join("rewards"),
            source=self._join("source"),
            terminated=bool(last.terminated[self.row]),
            truncated=bool(last.truncated[self.row]),
            success=bool(last.success[self.row]),
            task=first.task[self.row],
            decisions=tuple(of_row(decision, self.row) for decision in self.decisions),
            provenance=provenance,
        )

    def _join(self, name: str) -> np.ndarray:
        return self._steps([getattr(outcome, name) for outcome in self.outcomes])

    def _steps(self, arrays: list[np.ndarray]) -> np.ndarray:
        """[B, k, ...] per outcome -> [T, ...] of this row, without padding."""
        valid = [outcome.executed_valid[self.row] for outcome in self.outcomes]
        return np.concatenate([array[self.row][keep] for array, keep in zip(arrays, valid, strict=True)])


def of_row(decision: Decision, row: int) -> Decision:
    """One robot's part of a decision, as a batch of one."""
    names = ("chunk", "execute", "start_step", "index", "candidates", "value", "spread")
    names += ("committed",) if decision.committed is not None else ()
    arrays = {name: getattr(decision, name)[row : row + 1].copy() for name in names}
    return replace(decision, reason=decision.reason[row : row + 1], **arrays)
