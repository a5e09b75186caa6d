"""Collecting by several actors: each plays whole waves into stores of their own, which the one asked for adopts.

The same seeds give the same episodes whoever plays them. What an actor has stored stays, whoever dies and whenever.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from .beside import beside, gather
from .collect import Collected, StopRequest, describe, provenances, record, recorded
from .episodes.manifest import canonical
from .episodes.store import EpisodeStore
from .playing import waves
from .protocols import Robot
from .workers import run_all


@dataclass(frozen=True)
class Wave:
    """What is simulated at once. Plain values, for another process."""

    robot: Any  # a robots component's Config
    store: Path  # what adopts the wave's own store in the end
    name: str  # of that
    seeds: tuple[int, ...]
    batch_size: int
    task: str


def collect_by(
    actors: Executor,
    robot_config: Any,
    path: str | Path,
    episodes: int,
    first_seed: int = 0,
    batch_size: int = 8,
    task: str = "",
    progress: bool = True,
) -> Collected:
    """As `collect`. Ctrl-C keeps what is finished, and the next call goes on, with as many actors as it likes."""
    path = Path(path).absolute()  # an actor may have another working folder
    gather(path, _made)  # what a call that was cut off left
    known = partial(recorded, robot=describe(robot_config), task=task)
    wanted, present = range(first_seed, first_seed + episodes), known(path)
    missing = [seed for seed in wanted if seed not in present]
    rows = min(batch_size, max(1, len(missing)))
    calls = {
        i: (play, (Wave(robot_config, path, f"{i:06d}", seeds, rows, task),))
        for i, seeds in enumerate(waves(missing, rows))
    }
    interrupted = False
    try:
        run_all(actors, calls, "waves", progress)
    except KeyboardInterrupt:
        interrupted = True
    gather(path, _made)
    new = [name for seed, name in known(path).items() if seed not in present]
    return _counted(path, new, Collected(present=episodes - len(missing), interrupted=interrupted))


def play(wave: Wave) -> None:
    """The actor's side. A wave that was cut off is played whole, what it lacks recorded."""
    name, own = describe(wave.robot), beside(wave.store, wave.name)
    there = recorded(own, name, wave.task)
    if len(there) == len(wave.seeds):
        return
    robot = _robot(wave.robot, wave.batch_size)
    if (wave.store / "zarr.json").exists():
        EpisodeStore.open(wave.store).spec.check(robot.spec, "the robot")  # now, not when all has been played
    record(robot, name, own, wave.seeds, wave.task, StopRequest(), known=there, progress=False)


def _made(path: Path) -> dict[Any, str]:
    """Every episode by what it was made of: nobody collects it twice, and what others have begun stays as well."""
    return {(p.get("seed"), canonical(p.get("robot")), p.get("task")): name for name, p in provenances(path).items()}


def _counted(path: Path, names: Sequence[str], done: Collected) -> Collected:
    """With what the store says of these episodes."""
    store = EpisodeStore.open(path) if names else None
    for name in names:
        about = store.about(name)
        done.count(about["steps"], bool(about["success"]), bool(about["provenance"]["unstable"]))
    return done


@cache
def _robot(config: Any, batch_size: int) -> Robot:
    """An actor plays many waves on one."""
    return config.build(batch_size=batch_size, workers=0, n_obs_steps=1, driver="expert")
