"""Episodes that keep coming, in RAM, as the Cache that samplers read. Arrays double, so that adding stays cheap."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..episodes.cache import Cache
from ..types import POLICY, Episode, Spec


@dataclass
class Column:
    """An array that grows at its end."""

    rows: np.ndarray  # [capacity, ...]
    used: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: str) -> Column:
        return cls(np.zeros((64, *shape), dtype))

    @property
    def view(self) -> np.ndarray:
        """What was added so far; later rows do not change it."""
        return self.rows[: self.used]

    def add(self, more: np.ndarray) -> None:
        if self.used + len(more) > len(self.rows):
            larger = np.zeros((max(2 * len(self.rows), self.used + len(more)), *self.rows.shape[1:]), self.rows.dtype)
            larger[: self.used] = self.view
            self.rows = larger
        self.rows[self.used : self.used + len(more)] = more
        self.used += len(more)


@dataclass
class Grown:
    spec: Spec
    tasks: tuple[str, ...] = ()  # whose numbers are kept: those that the models were trained on come first
    names: list[str] = field(default_factory=list)
    outcomes: list[tuple[int, int, bool, bool, float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._state = Column.of((self.spec.state_dim,), "f4")
        self._action = Column.of((self.spec.action_dim,), "f4")
        self._reward, self._source = Column.of((), "f4"), Column.of((), "u1")
        self._images = {camera.name: Column.of((camera.height, camera.width, 3), "u1") for camera in self.spec.cameras}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def steps(self) -> int:
        return self._action.used

    def add(self, name: str, episode: Episode) -> None:
        """Executed actions are what counts, whoever they came from."""
        if episode.task not in self.tasks:
            self.tasks = (*self.tasks, episode.task)
        self.names.append(name)
        success = np.nan if episode.success is None else float(episode.success)
        ends = (episode.terminated, episode.truncated, success, self.tasks.index(episode.task))
        self.outcomes.append((len(episode), len(episode.states), *ends))
        self._state.add(episode.states)
        self._action.add(episode.actions)
        self._reward.add(episode.rewards)
        self._source.add(np.full(len(episode), POLICY, np.uint8) if episode.source is None else episode.source)
        for camera, column in self._images.items():
            column.add(episode.images[camera])

    def cache(self) -> Cache:
        steps, frames, terminated, truncated, success, task = (np.array(x) for x in zip(*self.outcomes, strict=True))
        return Cache(
            path=Path(),
            spec=self.spec,
            names=tuple(self.names),
            hashes=("",) * len(self.names),
            tasks=self.tasks,
            state=self._state.view,
            images={name: column.view for name, column in self._images.items()},
            action=self._action.view,
            reward=self._reward.view,
            source=self._source.view,
            steps=steps.astype(np.int64),
            frames=frames.astype(np.int64),
            terminated=terminated.astype(bool),
            truncated=truncated.astype(bool),
            success=success.astype(np.float32),
            task=task.astype(np.int64),
        )
