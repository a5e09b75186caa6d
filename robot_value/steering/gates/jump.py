"""The critic acts at decisive moments only: where its value leaves what it has been lately (JITI, arXiv 2511.22555).

    v_t = mean of the candidates' values        acts where |v_t - mean(v_{t-w..t-1})| > threshold * std(v_{t-w..t-1})

The mean over candidates is steadier than one candidate's value: noise of the policy is not news about the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...types import Scores, Selection, Situation
from ..selection import scored, uniform


@dataclass(frozen=True)
class Config:
    threshold: float = 2.0  # in standard deviations of the episode's last values; ours
    window: int = 8  # w, decisions looked back on; ours

    def build(self) -> Jump:
        if not self.threshold >= 0 or self.window < 2:
            raise ValueError(f"expected threshold >= 0 and window >= 2, got {self.threshold} and {self.window}")
        return Jump(self.threshold, self.window)


class Jump:
    def __init__(self, threshold: float, window: int) -> None:
        self.threshold, self.window = threshold, window
        self.reset()

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """A new episode for `rows`, for all without rows."""
        if rows is None:
            self.history, self.episode = np.zeros((0, self.window)), np.zeros(0, np.int64)
        elif len(self.history):
            self.history[rows] = np.nan

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        value = _mean(scores, situation)
        self._follow(np.zeros(len(value), np.int64) if situation.episode is None else situation.episode)
        known = np.isfinite(self.history)  # [B, w]
        count = known.sum(1)
        mean = np.where(known, self.history, 0.0).sum(1) / np.maximum(count, 1)
        std = np.sqrt((np.where(known, self.history - mean[:, None], 0.0) ** 2).sum(1) / np.maximum(count, 1))
        jumped = (count >= 2) & (np.abs(value - mean) > self.threshold * std)  # NaN is no jump
        shifted = np.concatenate([self.history[:, 1:], value[:, None]], 1)
        self.history = np.where(np.isfinite(value)[:, None], shifted, self.history)
        return jumped, "abstained"

    def _follow(self, episode: np.ndarray) -> None:
        """Forget the rows that have begun another episode."""
        if len(self.episode) != len(episode):
            self.history = np.full((len(episode), self.window), np.nan)
        else:
            self.history[self.episode != episode] = np.nan
        self.episode = episode.copy()


def _mean(scores: Scores, situation: Situation) -> np.ndarray:
    """float64[B]: mean value of the scored candidates, NaN without one."""
    usable = scored(scores, situation)
    mean = (uniform(usable) * torch.where(usable, scores.value, 0.0)).sum(1)
    return torch.where(usable.any(1), mean, torch.nan).cpu().numpy()
