"""Where every robot of a fleet is in its episode: observation history, clocks, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robot_value.types import Observation, Spec

from .fleet_rows import Played
from .simulator import Frame

_PER_ROW = ("step", "time", "episode", "success", "terminated", "truncated", "unstable", "state")


class Ledger:
    """B rows of an episode each; a row that was never reset counts as done."""

    def __init__(self, spec: Spec, batch_size: int, n_obs_steps: int, max_steps: int) -> None:
        self._action_dim, self._max_steps = spec.action_dim, max_steps
        self.step = np.zeros(batch_size, np.int64)
        self.time = np.zeros(batch_size)  # s
        self.episode = np.zeros(batch_size, np.int64)
        self.success, self.terminated, self.unstable = (np.zeros(batch_size, bool) for _ in range(3))
        self.truncated = np.ones(batch_size, bool)
        self.task = [""] * batch_size
        self.latents: list[dict[str, Any]] = [{} for _ in range(batch_size)]
        self.state = np.zeros((batch_size, n_obs_steps, spec.state_dim), np.float32)  # oldest first
        self.images = {
            camera.name: np.zeros((batch_size, n_obs_steps, camera.height, camera.width, 3), np.uint8)
            for camera in spec.cameras
        }

    @property
    def done(self) -> np.ndarray:
        """bool[B]"""
        return self.terminated | self.truncated

    def begin(self, row: int, task: str, seed: int, frame: Frame, latents: dict[str, Any]) -> None:
        self.task[row], self.episode[row], self.latents[row] = task, seed, latents
        self.step[row], self.time[row] = 0, frame.time
        self.state[row] = frame.state  # the first frame fills the whole history
        for name, image in frame.images.items():
            self.images[name][row] = image
        self.success[row] = frame.success
        self.terminated[row] = False
        self.truncated[row] = self.unstable[row] = frame.unstable

    def add(self, row: int, played: Played) -> None:
        _push(self.state[row], played.states)
        for name, images in played.images.items():
            _push(self.images[name][row], images)
        self.step[row] += len(played.actions)
        self.time[row] = played.times[-1]
        self.success[row] |= played.success
        self.terminated[row] = played.terminated
        self.unstable[row] = played.unstable
        self.truncated[row] = played.unstable or (self.step[row] >= self._max_steps and not played.terminated)

    def left(self) -> np.ndarray:
        """int64[B], control steps until truncation; 0 where done."""
        return np.where(self.done, 0, self._max_steps - self.step)

    def observation(self) -> Observation:
        batch = len(self.step)
        return Observation(
            state=self.state.copy(),
            images={name: image.copy() for name, image in self.images.items()},
            task=tuple(self.task),
            time=self.time.copy(),
            step=self.step.copy(),
            episode=self.episode.copy(),
            pending=np.zeros((batch, 0, self._action_dim), np.float32),
            committed=np.zeros(batch, np.int64),
        )

    def save(self, row: int) -> dict[str, Any]:
        return {
            "task": self.task[row],
            "latents": dict(self.latents[row]),
            "arrays": {name: np.copy(getattr(self, name)[row]) for name in _PER_ROW},
            "images": {name: image[row].copy() for name, image in self.images.items()},
        }

    def load(self, row: int, saved: dict[str, Any]) -> None:
        self.task[row], self.latents[row] = saved["task"], dict(saved["latents"])
        for name, value in saved["arrays"].items():
            getattr(self, name)[row] = value
        for name, image in saved["images"].items():
            self.images[name][row] = image


def _push(history: np.ndarray, fresh: Sequence[np.ndarray] | np.ndarray) -> None:
    """Append along the first axis and forget as many of the oldest."""
    size, count = len(history), len(fresh)
    if count < size:
        history[: size - count] = history[count:].copy()
    history[max(size - count, 0) :] = fresh[-size:]
