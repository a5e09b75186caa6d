"""Play that never stops, cut into the episodes of one task: OGBench's singletask rewards on recorded states.

    r_t = (objects at their goal in s_{t+1}) - (objects)          terminated_t = all of them are

(OGBench >= 1.2, where reward and termination look at the state reached.) An episode ends where the task is solved, and
the next one begins when it no longer is: what happens in between no task episode ever sees.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from robot_value.episodes.durable import publish
from robot_value.episodes.store import EpisodeStore
from robot_value.types import Episode

from . import ogbench_env as og

REWARDS = ("objects", "step")
_NEAR = 0.04  # m, OGBench's tolerance of cubes, drawer and window


@dataclass(frozen=True)
class Relabelled:
    """What the play data say about one task."""

    task: str
    episodes: int
    steps: int  # steps that do not begin where the task is solved
    entered: int  # episodes that end with the task solved


def relabel(play: str | Path, task: str, out: str | Path, reward: str = "objects", progress: bool = True) -> Relabelled:
    """A store at `out` with the task's episodes of the play store; one that is there already is only counted."""
    family, number = og.parse(task)
    if reward not in REWARDS:
        raise ValueError(f"reward: expected one of {', '.join(REWARDS)}, got {reward!r}")
    out = Path(out)
    if not out.exists():
        info, partial = og.task_infos(family)[number], out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with EpisodeStore.open(play) as source, EpisodeStore.create(partial, source.spec) as target:
            for name in tqdm(source.names(), f"relabelling {task}", disable=not progress):
                for episode in cut(source.read(name, decisions=False), info, reward):
                    origin = {"task": task, "reward": reward, "play_episode": name}
                    target.append(replace(episode, task=task, provenance={**episode.provenance, "relabelled": origin}))
        publish(partial, out)  # whole or absent
    return count(out, task)


def count(store: str | Path, task: str) -> Relabelled:
    episodes = list(EpisodeStore.open(store))
    return Relabelled(task, len(episodes), sum(map(len, episodes)), sum(bool(e.success) for e in episodes))


def cut(play: Episode, task_info: Mapping[str, Any], reward: str = "objects") -> Iterator[Episode]:
    """The episodes that end by solving the task, and the rest of the play as one that ran out of time."""
    met = at_goal(play.states, play.spec.state_names, task_info)  # bool[T + 1, objects]
    solved = met.all(1)
    rewards = (solved.astype(np.float32) - 1) if reward == "step" else (met.sum(1) - met.shape[1]).astype(np.float32)
    before = np.concatenate([[True], solved[:-1]])
    for begin in np.flatnonzero(~solved & before).tolist():
        ends = begin + np.flatnonzero(solved[begin:])
        end = int(ends[0]) if len(ends) else len(play)
        if begin < end:  # else the play stopped just as the task could have begun
            yield _slice(play, begin, end, rewards[begin + 1 : end + 1], bool(solved[end]))


def at_goal(states: np.ndarray, names: tuple[str, ...], task_info: Mapping[str, Any]) -> np.ndarray:
    """bool[T, objects] in OGBench's order (cubes, buttons, drawer, window), for states float32[T, S]."""
    goal = task_info.get("goal", task_info)
    column = {name: i for i, name in enumerate(names)}
    met = []
    for i, xyz in enumerate(goal.get("block_xyzs", task_info.get("goal_xyzs", ()))):
        cube = states[:, [column[f"cube_{i}_{axis}"] for axis in "xyz"]].astype(float)
        met.append(np.linalg.norm(cube - xyz, axis=1) <= _NEAR)
    for i, on in enumerate(goal.get("button_states", task_info.get("goal_button_states", ()))):
        met.append(states[:, column[f"button_{i}_on"]] == on)
    for name in ("drawer", "window"):
        if f"{name}_pos" in goal:
            met.append(np.abs(states[:, column[name]].astype(float) - goal[f"{name}_pos"]) <= _NEAR)
    return np.stack(met, axis=1)


def _slice(play: Episode, begin: int, end: int, rewards: np.ndarray, solved: bool) -> Episode:
    steps, frames = slice(begin, end), slice(begin, end + 1)
    return replace(
        play,
        states=play.states[frames],
        images={name: image[frames] for name, image in play.images.items()},
        actions=play.actions[steps],
        commanded=None if play.commanded is None else play.commanded[steps],
        source=None if play.source is None else play.source[steps],
        rewards=rewards,
        terminated=solved,
        truncated=not solved,
        success=solved,
        decisions=(),
        provenance={**play.provenance, "play_steps": [begin, end]},
    )
