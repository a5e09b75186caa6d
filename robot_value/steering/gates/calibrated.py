"""The critic acts only where its confidence is above a threshold whose gain was proven on validation episodes.

The threshold comes from `robot-value calibrate` (steering/abstention.py has the rule); infinity means never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...types import Scores, Selection, Situation
from ..abstention import Calibration, Setup
from ..confidence import confidence


@dataclass(frozen=True)
class Config:
    path: str | None = None  # file of `robot-value calibrate`
    threshold: float | None = None  # instead of a file: standard deviations; -inf always acts, inf never

    def build(self) -> Calibrated:
        if (self.path is None) == (self.threshold is None):
            raise ValueError(
                f"gate calibrated: expected a path or a threshold, got path={self.path!r} and "
                f"threshold={self.threshold}; `robot-value calibrate` writes the file"
            )
        if self.path is None:
            return Calibrated(self.threshold)
        calibration = Calibration.load(Path(self.path))
        return Calibrated(calibration.choice.threshold, calibration.setup)


class Calibrated:
    def __init__(self, threshold: float, setup: Setup | None = None) -> None:
        if math.isnan(threshold):
            raise ValueError("gate calibrated: expected a number or infinity as threshold, got NaN")
        self.threshold, self.setup = threshold, setup

    def check(self, steerer: Any, critic: Any) -> None:
        """Refuse to work without a critic, or with parts that the threshold was not calibrated for."""
        if critic is None:
            raise ValueError("gate calibrated: expected a critic whose confidence counts, got none; give the arm one")
        if self.setup is not None:
            self.setup.check(Setup.of(steerer, critic))

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        return confidence(chunks, scores, selection, situation) > self.threshold, "abstained"  # NaN never acts
