"""How far the policy's actions are from a demonstration's, joint by joint and phase by phase.

Per axis of the action, the mean over executed steps of |a_i - a_logged| for a candidate i, and of |a_i - a_j| for two
candidates. Two draws of one law differ as much as a draw and another: an error above the policy's own spread is what
the policy does not know; an error that equals it is the policy's own variety, also where it is large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..statistics import Interval
from . import by_episode
from .chunk_space import Axis, axes, blocks
from .phases import Part, Phases, by_part
from .replayed import Replayed


@dataclass(frozen=True)
class AxisError:
    name: str  # "arm[0]", "arm rotation", "gripper"
    unit: str
    range: float  # high - low, in `unit`
    error: Interval  # mean of a candidate against the log, in `unit`; rotations: angle
    nearest: Interval  # of the best candidate of each decision on this axis
    spread: Interval  # mean of two candidates against each other
    excess: Interval  # error - spread, paired; above 0: the policy does not do what was demonstrated
    by_phase: tuple[Part, ...]  # error


@dataclass(frozen=True)
class Error:
    axes: tuple[AxisError, ...]
    error: np.ndarray  # float64[D, C], of C axes, in their units
    spread: np.ndarray  # float64[D, C]


def action_error(replayed: Replayed, phases: Phases, drawn: np.ndarray) -> Error:
    found = axes(replayed.spec)
    columns = np.stack([_columns(replayed, axis) for axis in found], 2)  # [3, D, C]
    error, nearest, spread = columns
    episode = replayed.episode
    return Error(
        tuple(
            AxisError(
                name=axis.name,
                unit=axis.unit,
                range=axis.range,
                error=(mean := by_episode.mean(error[:, c], episode, drawn)).interval,
                nearest=by_episode.mean(nearest[:, c], episode, drawn).interval,
                spread=(own := by_episode.mean(spread[:, c], episode, drawn)).interval,
                excess=(mean - own).interval,
                by_phase=by_part(error[:, c], phases.label, phases.names, episode, drawn),
            )
            for c, axis in enumerate(found)
        ),
        error,
        spread,
    )


def _columns(replayed: Replayed, axis: Axis) -> np.ndarray:
    """float64[3, D]: error, the nearest candidate's, spread; means over executed steps, NaN where unknown."""
    return np.concatenate([_block(replayed, axis, rows) for rows in blocks(len(replayed))], 1)


def _block(replayed: Replayed, axis: Axis, rows: slice) -> np.ndarray:
    k, n = replayed.execute, replayed.candidates.shape[1]
    logged = axis.coordinates(replayed.logged[rows, None, :k])
    candidates = axis.coordinates(replayed.candidates[rows, :, :k])  # [D, N, k, .]
    steps = np.clip(replayed.length[rows], 1, k)
    weight = (np.arange(candidates.shape[2]) < steps[:, None]) / steps[:, None]  # [D, k]
    error = (axis.difference(candidates, logged) * weight[:, None]).sum(2)  # [D, N]
    ring = axis.difference(candidates, np.roll(candidates, 1, axis=1))  # N of the pairs, each candidate in two
    spread = (ring * weight[:, None]).sum(2)
    if n == 1:
        spread[:] = np.nan
    finite = np.isfinite(error)
    nearest = np.where(finite, error, np.inf).min(1)
    return np.stack([_mean(error), np.where(finite.any(1), nearest, np.nan), _mean(spread)])


def _mean(values: np.ndarray) -> np.ndarray:
    """float64[D] of [D, N], without the unknown."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(values), np.nan), where=known.any(1))
