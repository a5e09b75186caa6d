"""Splice by executed steps: a chunk goes on until a newer decision's start_step is reached, at index step - start_step.

With decisions that come late or take effect later no step is repeated and none is played at another's time. On a robot
that waits for its decisions this is plain indexing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...types import Decision, Observation
from ._recent import Recent, expect_known


@dataclass(frozen=True)
class Config:
    def build(self) -> Splice:
        return Splice()


@dataclass
class Splice:
    recent: Recent = field(default_factory=Recent)

    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A]. `offset` is not read: it is about the latest decision, which may not have started."""
        self.recent.add(observation, decision)
        return expect_known(self.recent.in_force(observation)[:, 0], observation, decision)
