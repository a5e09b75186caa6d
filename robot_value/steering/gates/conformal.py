"""The critic acts where the plain policy is about to fail ("alarmed"), or only as long as all is normal ("calm").

The failure alarm (steering/alarm.py) stays on until the episode ends. With "alarmed" the plain policy drives until it
rings, so that of the episodes it would have solved at most a share alpha is touched. "calm" stops a critic that has led
where nothing looks as it did in calibration; alpha bounds nothing there, since the critic itself changes the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...types import Scores, Selection, Situation
from ..alarm import Alarm, Monitor
from ..setups import Setup
from .disagreement import disagreement

PLAIN = ("policy", "critic", "execute")  # what the score of the plain policy's own chunk depends on
SCORES = {"value": PLAIN, "spread": PLAIN, "disagreement": ("policy", "proposer", "guide", "n", "execute")}


@dataclass(frozen=True)
class Config:
    path: str = ""  # file of an alarm: `robot-value calibrate --alarm=value` writes one
    act: str = "alarmed"  # when the critic may act: alarmed or calm

    def build(self) -> Conformal:
        if not self.path:
            raise ValueError("gate conformal: expected an alarm's path, got none; run `robot-value calibrate --alarm`")
        return Conformal(Alarm.load(Path(self.path)), self.act)


class Conformal:
    def __init__(self, alarm: Alarm, act: str = "alarmed") -> None:
        if act not in ("alarmed", "calm"):
            raise ValueError(f"act: expected alarmed or calm, got {act!r}")
        if alarm.score not in SCORES:
            raise ValueError(f"alarm: expected one on a score among {', '.join(SCORES)}, got {alarm.score!r}")
        self.monitor, self.act = Monitor(alarm), act

    def check(self, steerer: Any, critic: Any) -> None:
        """Refuse parts for which nobody knows what a normal score is."""
        alarm = self.monitor.alarm
        if alarm.setup is not None:
            alarm.setup.check(Setup.of(steerer, critic), SCORES[alarm.score])

    def reset(self, rows: Sequence[int] | None = None) -> None:
        self.monitor.reset(rows)

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        score = failure_score(self.monitor.alarm.score, chunks, scores, selection, situation)
        episode = np.zeros(len(score), np.int64) if situation.episode is None else situation.episode
        alarmed = self.monitor(score, episode)
        return (alarmed, "calm") if self.act == "alarmed" else (~alarmed, "alarmed")


def failure_score(
    kind: str, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
) -> np.ndarray:
    """float64[B], larger is worse: of the plain policy's own chunk (candidate 0), or how much candidates disagree."""
    if kind == "disagreement":
        score = disagreement(chunks, situation)
    else:
        score = -scores.value[:, 0] if kind == "value" else scores.spread[:, 0]
    return score.double().cpu().numpy()
