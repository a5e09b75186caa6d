"""Learning curves of one run: means over a window, as curves.json, TensorBoard events and, when asked, wandb.

Metrics stay tensors on their device until a window ends: reading one number per step would stall a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .ranks import here

if TYPE_CHECKING:
    from .training import TrainConfig

FILE = "curves.json"
FINITE = {"loss", "grad_norm"}  # where one of these is not a number, the weights soon are not either


class NonFinite(FloatingPointError):
    """The loss is no longer a number; the message names the step and what to do."""


class Curves:
    """{"train": {"step": [...], "loss": [...]}, "validation": {...}}, rewritten whole at every point.

    Of several ranks (ranks.py) the first writes, and what it writes is the mean over all.
    """

    def __init__(self, root: Path, config: TrainConfig, step: int) -> None:
        self.root, self.points = root, _read(root / FILE, step)
        self._window: dict[str, list[tuple[int, dict[str, Tensor]]]] = {}
        self._writes = here().index == 0
        self._writers = [_TensorBoard(root, step)] if config.tensorboard and self._writes else []
        self._writers += [_WandB(root, config)] if config.wandb and self._writes else []

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers:
            writer.close()

    def add(self, curve: str, step: int, metrics: dict[str, Tensor]) -> None:
        self._window.setdefault(curve, []).append((step, metrics))

    def flush(self, curve: str, step: int) -> dict[str, float]:
        """Means of the window so far as one point of the curve at `step`; raises NonFinite on a bad loss."""
        window = self._window.pop(curve, [])
        if not window:
            return {}
        names = list(window[0][1])
        table = torch.stack([torch.stack([m[name].float() for name in names]) for _, m in window])  # [steps, metrics]
        table = here().mean(table.double().cpu())
        for name in FINITE & set(names):
            _check(name, table[:, names.index(name)], [s for s, _ in window], curve)
        means = dict(zip(names, table.mean(0).tolist(), strict=True))
        if self._writes:
            self._append(curve, step, means)
        for writer in self._writers:
            writer.point(curve, step, means)
        return {"loss": float(f"{means['loss']:.4g}")}

    def _append(self, curve: str, step: int, means: dict[str, float]) -> None:
        points = self.points.setdefault(curve, {})
        for name, value in {"step": step, **means}.items():
            points.setdefault(name, []).append(value if math.isfinite(value) else None)  # JSON has no NaN
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".{FILE}.tmp"
        temporary.write_text(json.dumps(self.points))
        os.replace(temporary, self.root / FILE)


def _check(name: str, values: Tensor, steps: list[int], curve: str) -> None:
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        i = int(bad[0, 0])
        raise NonFinite(
            f"step {steps[i]}: expected a finite {curve} {name}, got {values[i].item()}; checkpoints saved before are "
            "good; look for bad data (`robot-value data inspect`) or use a smaller learning rate"
        )


def _read(path: Path, step: int) -> dict[str, dict[str, list[float]]]:
    """The curves of the run that is continued, up to the step it continues from."""
    if step == 0 or not path.exists():
        return {}
    points = json.loads(path.read_text())
    for curve in points.values():
        kept = sum(s <= step for s in curve["step"])
        for values in curve.values():
            del values[kept:]
    return points


class _TensorBoard:
    def __init__(self, root: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(root / "events"), purge_step=step + 1)

    def point(self, curve: str, step: int, means: dict[str, float]) -> None:
        for name, value in means.items():
            self._writer.add_scalar(f"{curve}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, root: Path, config: TrainConfig) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "wandb was asked for but is not installed; `pip install wandb` or drop the flag"
            ) from error
        self._run = wandb.init(project=config.wandb, dir=str(root), config=dataclasses.asdict(config))

    def point(self, curve: str, step: int, means: dict[str, float]) -> None:
        self._run.log({f"{curve}/{name}": value for name, value in means.items()}, step=step)

    def close(self) -> None:
        self._run.finish()
