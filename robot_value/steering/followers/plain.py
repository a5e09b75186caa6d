"""Plain indexing: control step i after the decision's start executes step i of its chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...types import Decision, Observation


@dataclass(frozen=True)
class Config:
    def build(self) -> Plain:
        return Plain()


class Plain:
    open_loop = True  # never looks at the observation: a simulated robot may take the whole block at once

    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A]. A step outside the chunk is refused: repeating a relative action would keep the arm moving."""
        horizon = decision.chunk.shape[1]
        if (offset < 0).any() or (offset >= horizon).any():
            raise ValueError(
                f"offset: expected 0 to {horizon - 1} in a chunk of {horizon} steps, got {offset.tolist()}; "
                "a robot that outlives its chunk must stop, not guess"
            )
        return decision.chunk[np.arange(len(offset)), offset]
