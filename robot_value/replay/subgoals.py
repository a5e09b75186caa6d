"""An episode cut at its subgoals, found from its frames alone (UVD, Zhang et al. 2024, arXiv 2310.08581).

    d_t = |phi(o_t) - phi(o_goal)|      previous subgoal = the last t < goal at which d turns: it rose until there

The last frame is the last goal. Walking back from a goal, the distance to it grows until the frame at which the robot
turned to it; that frame is the goal before, and so on to the start. A fall-back of less than `tolerance` of the largest
distance is noise. phi is the state, or any function of images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..labels.callables import checked, load_function
from ..labels.frames import camera_frames
from ..results import write_atomic
from ..types import Episode
from .replayed import Replayed


@dataclass(frozen=True)
class Config:
    embed: str = ""  # package.module:function, images uint8[n, h, w, 3] -> numbers [n, D]; none: the state
    camera: str = ""  # which camera is embedded; none named: the first
    tolerance: float = 0.05  # of the largest distance to a goal, that it may fall back without a turn
    shortest: int = 5  # frames between subgoals at least


def of_episode(episode: Episode, config: Config = Config(), scale: np.ndarray | None = None) -> np.ndarray:
    """Frames int64[G]; `scale` float[S] divides states (default: their range in the episode)."""
    return subgoals(embedding(episode, config, scale), config.tolerance, config.shortest)


def of_replayed(replayed: Replayed, config: Config = Config()) -> tuple[np.ndarray, ...]:
    """Control steps int64[G] per episode, at the resolution of its decisions, from the column "state"."""
    if "state" not in replayed.columns:
        raise ValueError("subgoals: expected a column 'state', got none; replay with the onlooker outliers.States")
    states = replayed.columns["state"].astype(np.float64) / _range(replayed.columns["state"])
    rows = [replayed.rows(e) for e in range(len(replayed.episodes))]
    shortest = max(1, config.shortest // replayed.execute)
    return tuple(replayed.step[r][subgoals(states[r], config.tolerance, shortest)] for r in rows)


def write(path: Path, found: Mapping[str, np.ndarray]) -> Path:
    """JSON: an episode's name -> its subgoals, control steps. Whole or not at all."""
    return write_atomic(path, json.dumps({name: steps.tolist() for name, steps in found.items()}) + "\n")


def subgoals(vectors: np.ndarray, tolerance: float = 0.05, shortest: int = 5) -> np.ndarray:
    """Frames int64[G] of the subgoals in vectors [F, D], ascending; the last one is F - 1."""
    goal = len(vectors) - 1
    found = [goal]
    while (goal := _turn(vectors[: goal + 1], tolerance)) >= shortest:
        if found[-1] - goal >= shortest:
            found.append(goal)
    return np.array(found[::-1], np.int64)


def embedding(episode: Episode, config: Config, scale: np.ndarray | None = None) -> np.ndarray:
    """phi float64[F, D]."""
    if not config.embed:
        return episode.states.astype(np.float64) / (_range(episode.states) if scale is None else scale)
    frames = camera_frames(episode, config.camera)
    return checked("embed", load_function("embed", config.embed)(frames), (len(frames), None))


def _turn(vectors: np.ndarray, tolerance: float) -> int:
    """The frame at which the distance to the last one stops growing on the way back; -1: it grows to the start."""
    away = np.linalg.norm(vectors - vectors[-1], axis=1)[::-1]  # away[0] = 0, the goal
    highest = np.maximum.accumulate(away)
    fallen = np.flatnonzero(away < highest - tolerance * highest.max())
    return len(vectors) - 1 - int(away[: fallen[0]].argmax()) if len(fallen) else -1


def _range(states: np.ndarray) -> np.ndarray:
    """float64[S], 1 where nothing moves."""
    extent = np.ptp(states, axis=0).astype(np.float64)
    return np.where(extent > 0, extent, 1.0)
