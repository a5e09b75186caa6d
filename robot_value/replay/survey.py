"""One streaming pass over a log for what a Replayed does not hold: every state, every action, and the last pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..episodes.findings import Frames, Measures, frames, measure
from ..types import Episode
from .logs import Log

GRID = 6  # cells along each side of the picture that the last frame is averaged to
MOVING = 0.25  # of the median speed in the episode, from which on the robot moves


@dataclass(frozen=True)
class Trace:
    """The low-dimensional part of an episode, and how it looked at the end."""

    name: str
    states: np.ndarray  # float32[T + 1 or T, S]
    actions: np.ndarray  # float32[T, A]
    success: bool | None
    picture: np.ndarray  # float32[cameras * GRID * GRID], mean brightness of the last frame's cells


@dataclass(frozen=True)
class Survey:
    traces: tuple[Trace, ...]
    measures: tuple[Measures, ...]
    frames: tuple[Frames, ...]


def survey(log: Log, names: Sequence[str] | None = None) -> Survey:
    """Every episode is read once; pictures are forgotten at once."""
    traces, measures, seen = [], [], []
    for name in log.names() if names is None else names:
        episode = log.read(name)
        picture = [_cells(images[-1]) for images in episode.images.values()]
        traces.append(
            Trace(name, episode.states, episode.actions, episode.success, np.concatenate([*picture, np.zeros(0)]))
        )
        measures.append(measure(name, episode))
        seen += [replace(each, frozen=_frozen(episode, each.camera)) for each in frames(name, episode)]
    return Survey(tuple(traces), tuple(measures), tuple(seen))


def _cells(frame: np.ndarray) -> np.ndarray:
    """float64[GRID * GRID] of uint8[h, w, 3]."""
    rows = np.array_split(frame.mean(2), GRID)
    return np.array([cell.mean() if cell.size else 0.0 for row in rows for cell in np.array_split(row, GRID, axis=1)])


def _frozen(episode: Episode, camera: str) -> int:
    """Frames in the run of equal ones during which the robot moves most: a robot at rest looks the same, too."""
    pixels = episode.images[camera].reshape(len(episode.states), -1)
    changed = np.flatnonzero((pixels[1:] != pixels[:-1]).any(1))
    speed = np.linalg.norm(np.diff(episode.states, axis=0) / np.maximum(np.ptp(episode.states, 0), 1e-9), axis=1)
    moving = speed > MOVING * np.median(speed)  # bool[frames - 1]
    runs = np.split(moving, changed)  # [1:] of each but the first begins with the change that ended the run before
    longest = max(int(run[i > 0 :].sum()) for i, run in enumerate(runs))
    return longest + 1 if longest else 0
