"""TensorBoard against environment steps: a run of its own, `robot`, beside the learner's curves over gradient steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..statistics import wilson
from .books import PLAIN, Booked, Trial


class Board:
    def __init__(self, root: Path, env_steps: int, enabled: bool = True) -> None:
        """What was written past `env_steps`, by a run that was cut off, is forgotten."""
        self._writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(root / "events" / "robot"), purge_step=env_steps + 1)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()

    def round(self, booked: Booked, env_steps: int) -> None:
        share = sum(booked.human_steps) / max(1, sum(booked.steps))
        success = sum(booked.success) / max(1, len(booked.success))
        self._write(env_steps, {"round/success": success, "round/human_share": share, "round/refused": booked.refused})

    def trial(self, trial: Trial) -> None:
        rate, name = wilson(sum(trial.success), len(trial.success)), "plain" if trial.verdict == PLAIN else "trial"
        values = {"success": rate.mean, "low": rate.low, "high": rate.high, "evidence_worse": trial.evidence}
        self._write(trial.env_steps, {f"{name}/{key}": value for key, value in values.items()})

    def _write(self, env_steps: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if self._writer is not None:
                self._writer.add_scalar(name, value, env_steps)
