"""Phases of an episode that need no model: what the grippers are told, how often it changed, and standing still.

A gripper closes above 3/4 of its travel and opens below 1/4; between them it goes on with what it was told last. Robots
without a gripper have thirds of the episode's time. Numbers per phase come with an interval over episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..statistics import Interval
from ..types import Spec
from . import by_episode
from .replayed import Replayed

CLOSES, OPENS = 0.75, 0.25  # of a gripper's travel
STILL = 0.01  # largest motion of any dim in a phase called still, in action ranges
GRIPPING = ("open", "closed", "open again", "closed again", "still")  # later changes count as "again"
THIRDS = ("first third", "middle third", "last third")


@dataclass(frozen=True)
class Phases:
    names: tuple[str, ...]
    label: np.ndarray  # int64[D], into names


@dataclass(frozen=True)
class Part:
    """A mean over some of the decisions."""

    name: str
    decisions: int
    mean: Interval


def phases(replayed: Replayed) -> Phases:
    """Of every decision, by the first step that was executed."""
    grippers = [part for part in replayed.spec.parts if part.kind == "gripper"]
    if not grippers:
        return Phases(THIRDS, np.minimum(relative_time(replayed) * 3, 2).astype(np.int64))
    label = np.zeros(len(replayed), np.int64)
    for rows in _episodes(replayed):
        closed, changes = _grip(replayed, rows)
        label[rows] = closed + 2 * (changes >= 2)
    return Phases(GRIPPING, np.where(_still(replayed), GRIPPING.index("still"), label))


def relative_time(replayed: Replayed) -> np.ndarray:
    """float64[D] in [0, 1): step / steps of the episode."""
    return replayed.step / np.array([episode.steps for episode in replayed.episodes])[replayed.episode]


def by_part(
    values: np.ndarray, label: np.ndarray, names: Sequence[str], episode: np.ndarray, drawn: np.ndarray
) -> tuple[Part, ...]:
    """Mean of values float[D] in every part that has decisions; label int64[D] into names."""
    masked = [np.where(label == i, values, np.nan) for i in range(len(names))]
    counts = [int(np.isfinite(column).sum()) for column in masked]
    return tuple(
        Part(name, count, by_episode.mean(column, episode, drawn).interval)
        for name, count, column in zip(names, counts, masked, strict=True)
        if count
    )


def _episodes(replayed: Replayed) -> Iterator[slice]:
    return (replayed.rows(e) for e in range(len(replayed.episodes)))


def _grip(replayed: Replayed, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Per decision of an episode: whether any gripper is closed, and how often that has changed."""
    step, length = replayed.step[rows], replayed.length[rows]
    due = np.append(step[1:], step[-1] + length[-1]) - step  # steps until the next decision
    taken = [chunk[:k] for chunk, k in zip(replayed.logged[rows], np.minimum(due, length), strict=True)]
    closing = closedness(np.concatenate(taken), replayed.spec)  # [steps, grippers]
    closed = np.stack([_hysteresis(column) for column in closing.T], 1).any(1)
    changes = np.append(0, np.cumsum(closed[1:] != closed[:-1]))
    first = np.append(0, np.cumsum([len(actions) for actions in taken])[:-1])
    return closed[first], changes[first]


def closedness(actions: np.ndarray, spec: Spec) -> np.ndarray:
    """float64[..., grippers] of actions [..., A]: 0 told to be fully open, 1 closed."""
    columns = []
    for part in spec.parts:
        if part.kind == "gripper":
            share = (actions[..., part.start] - part.low[0]) / (part.high[0] - part.low[0])
            columns.append(share if part.sign > 0 else 1 - share)
    return np.stack(columns, -1)


def _hysteresis(closing: np.ndarray) -> np.ndarray:
    """bool[T] of closing [T]; before it was told clearly, the nearer of the two."""
    said = np.where(closing >= CLOSES, 1, np.where(closing <= OPENS, 0, -1))
    said[0] = closing[0] >= 0.5 if said[0] < 0 else said[0]
    last = np.maximum.accumulate(np.where(said >= 0, np.arange(len(said)), 0))
    return said[last].astype(bool)


def _still(replayed: Replayed) -> np.ndarray:
    """bool[D]: the executed steps move nothing but grippers; of a single step nobody can say."""
    chunk, still = replayed.logged[:, : max(2, replayed.execute)], replayed.length > 1
    for part in replayed.spec.parts:
        if part.kind != "gripper":
            values, span = chunk[:, :, part.slice], np.subtract(part.high, part.low)
            moves = np.diff(values, axis=1) if part.reference == "absolute" else values
            still = still & (np.abs(moves / span) <= STILL).all((1, 2))
    return still
