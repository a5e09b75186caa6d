"""What each robot was last told, lined up with the control steps that a new decision is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Decision, Observation


@dataclass
class Memory:
    chunk: np.ndarray | None = None  # float32[B, H, A], spec units
    start_step: np.ndarray | None = None  # int64[B]
    episode: np.ndarray | None = None  # int64[B]

    def recall(self, observation: Observation, start_step: np.ndarray) -> np.ndarray | None:
        """float32[B, H, A]: what the last decision of the same episode meant for the steps from `start_step` on.

        NaN where it meant nothing: another episode, or past its end. None before the first decision.
        """
        if self.chunk is None or len(self.chunk) != observation.batch_size:
            return None
        batch, horizon = self.chunk.shape[:2]
        step = (start_step - self.start_step)[:, None] + np.arange(horizon)  # int64[B, H] into the last chunk
        known = (step >= 0) & (step < horizon) & (self.episode == observation.episode)[:, None]
        recalled = self.chunk[np.arange(batch)[:, None], step.clip(0, horizon - 1)]
        return np.where(known[:, :, None], recalled, np.float32(np.nan))

    def keep(self, observation: Observation, decision: Decision) -> None:
        self.chunk, self.start_step = decision.chunk.copy(), decision.start_step.copy()
        self.episode = observation.episode.copy()

    def forget(self, rows: Sequence[int] | np.ndarray | None = None) -> None:
        if rows is None:
            self.chunk = self.start_step = self.episode = None
        elif self.chunk is not None:
            self.chunk[np.asarray(rows)] = np.nan
