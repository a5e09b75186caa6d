"""LeRobot's batches, one control step each, into the Observation that a decision is made from."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from robot_value.types import Observation, Spec


class Observer:
    """Rows are the environments of one rollout, all at the same step; the first frame fills the whole history."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._frames: deque[tuple[np.ndarray, dict[str, np.ndarray]]] = deque(maxlen=spec.n_obs_steps)
        self._step, self._first, self._tasks = 0, 0, ()  # _first: key of the first row's episode

    def reset(self) -> None:
        """The next rollout's rows are new episodes: 0, 1, 2, ... in the order in which they are played."""
        if self._frames:
            self._first += len(self._frames[-1][0])
        self._frames.clear()
        self._step = 0

    def see(self, batch: dict[str, Any], later: int = 1) -> None:
        """What came `later` control steps after the frame before; an episode's first frame is its step 0."""
        state = batch.get(OBS_STATE, torch.zeros(_rows(batch), 0)).cpu().numpy().astype(np.float32)  # [B, S]
        images = {camera.name: self._picture(batch, camera.name) for camera in self.spec.cameras}
        self._step += later if self._frames else 0
        self._frames.append((state, images))
        self._tasks = tuple(batch.get("task") or [""] * len(state))

    def observation(self) -> Observation:
        frames = [self._frames[0]] * (self._frames.maxlen - len(self._frames)) + list(self._frames)
        rows, step = len(frames[-1][0]), self._step
        return Observation(
            state=np.stack([state for state, _ in frames], 1),
            images={name: np.stack([images[name] for _, images in frames], 1) for name in frames[-1][1]},
            task=self._tasks,
            time=np.full(rows, step * self.spec.dt),
            step=np.full(rows, step, np.int64),
            episode=self._first + np.arange(rows),
            pending=np.zeros((rows, 0, self.spec.action_dim), np.float32),
            committed=np.zeros(rows, np.int64),
        )

    def _picture(self, batch: dict[str, Any], name: str) -> np.ndarray:
        """uint8[B, h, w, 3] of float[B, 3, h, w] in [0, 1]: bit by bit what the camera gave."""
        key = f"{OBS_IMAGES}.{name}"
        if key not in batch:
            cameras = [each for each in batch if each.startswith(OBS_IMAGES)]
            raise ValueError(f"{key}: expected this camera, got {cameras}; rename one with --rename_map")
        return (batch[key].cpu() * 255).round().to(torch.uint8).movedim(1, -1).numpy()


def _rows(batch: dict[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))
