"""Let a robot's own scripted expert play episodes into a store: progress bar, interruptible, resumable.

A seed that the store already holds for the same robot config is skipped, so that the same call completes what an
interrupted one began. Unstable episodes are stored and marked; they count as done.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from . import __version__
from .episodes.store import EpisodeStore
from .loop import Recorder, run_episodes
from .protocols import Robot, Watcher
from .types import Decision, Episode, Observation, Outcome, Spec

STEPS = 16  # control steps between decisions of a robot that drives itself; Ctrl-C waits for at most these


@dataclass
class Collected:
    """What one call added to the store; unstable episodes are neither successes nor failures."""

    present: int = 0  # episodes of the wanted seeds that were there before
    recorded: int = 0
    successes: int = 0
    unstable: int = 0
    steps: int = 0  # executed control steps
    interrupted: bool = False

    @property
    def success_rate(self) -> float:
        """Among the stable episodes of this call; NaN where there were none."""
        stable = self.recorded - self.unstable
        return self.successes / stable if stable else float("nan")

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        """Nothing: episodes are counted when they have ended."""

    def on_episode(self, episode: Episode) -> None:
        self.count(len(episode), bool(episode.success), bool(episode.provenance["unstable"]))

    def count(self, steps: int, success: bool, unstable: bool) -> None:
        """An episode."""
        self.recorded += 1
        self.unstable += unstable
        self.successes += success and not unstable
        self.steps += steps


def collect(
    robot_config: Any,  # a robots component's Config
    path: str | Path,
    episodes: int,
    first_seed: int = 0,
    workers: int = 0,  # simulator processes; 0 simulates in this process
    batch_size: int = 8,  # B, episodes played at once
    task: str = "",  # "" is the robot's default
    progress: bool = True,
) -> Collected:
    """Seeds first_seed ... first_seed + episodes - 1, an episode each. Ctrl-C keeps what is finished."""
    path, robot_name = Path(path), describe(robot_config)
    present = recorded(path, robot_name, task)
    missing = [seed for seed in range(first_seed, first_seed + episodes) if seed not in present]
    done = Collected(present=episodes - len(missing))
    if not missing:
        return done
    robot = robot_config.build(
        batch_size=min(batch_size, len(missing)), workers=workers, n_obs_steps=1, driver="expert"
    )
    try:
        with stop_request() as stop:
            record(robot, robot_name, path, missing, task, stop, (done,), progress=progress)
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        robot.close()
    return done


def record(
    robot: Robot,
    robot_name: dict[str, Any],
    path: Path,
    seeds: Sequence[int],
    task: str,
    stop: StopRequest,
    watchers: Sequence[Watcher] = (),
    known: Container[int] = (),  # seeds that are played for the sake of their wave, and not stored again
    progress: bool = True,
) -> None:
    """The robot's own driver plays an episode of each seed into the store at `path`. Raises KeyboardInterrupt."""
    provenance = {"robot": robot_name, "task": task, "libraries": libraries()}
    with open_store(path, robot.spec) as store, Recorder(store, provenance, decisions=False) as recorder:
        everybody, tasks = (Missing(recorder, known), *watchers), [task] * len(seeds)
        run_episodes(robot, HandsOff(robot.spec, stop), None, everybody, tasks, seeds, progress)


@dataclass(frozen=True)
class Missing:
    """Hands on only the episodes that the store lacks."""

    recorder: Recorder
    known: Container[int]  # seeds

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        """Nothing: episodes are recorded when they have ended."""

    def on_episode(self, episode: Episode) -> None:
        if episode.provenance["seed"] not in self.known:
            self.recorder.on_episode(episode)


class HandsOff:
    """Stands where a Steerer stands, and decides nothing: the robot's own driver acts."""

    def __init__(self, spec: Spec, stop: StopRequest) -> None:
        self.spec, self.stop = spec, stop

    def check(self, spec: Spec) -> None:
        self.spec.check(spec, "the robot")

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Nothing is remembered."""

    def __call__(self, observation: Observation, active: np.ndarray) -> Decision:
        if self.stop.asked:
            raise KeyboardInterrupt
        batch, action_dim = observation.batch_size, self.spec.action_dim
        return Decision(
            chunk=np.zeros((batch, STEPS, action_dim), np.float32),
            execute=np.full(batch, STEPS),
            start_step=observation.step + observation.committed,
            reason=("driver",) * batch,
            index=np.full(batch, -1),
            candidates=np.zeros((batch, 0, STEPS, action_dim), np.float32),
            value=np.zeros((batch, 0), np.float32),
            spread=np.zeros((batch, 0), np.float32),
        )


def describe(robot_config: Any) -> dict[str, Any]:
    """The robot as JSON: its module and resolved config, quality of the expert included."""
    config = json.loads(json.dumps(asdict(robot_config)))  # as the store will give it back: tuples become lists
    return {"module": type(robot_config).__module__, "config": config}


def recorded(path: Path, robot: dict[str, Any], task: str) -> dict[int, str]:
    """Episodes of the store, if there is one, that were collected on this very robot config and task: seed -> name."""
    made = provenances(path).items()
    return {p["seed"]: name for name, p in made if p.get("robot") == robot and p.get("task") == task}


def provenances(path: Path) -> dict[str, dict[str, Any]]:
    """What the store, if there is one, says of how its episodes were made, by name."""
    if not (path / "zarr.json").exists():
        return {}
    store = EpisodeStore.open(path)
    return {name: store.about(name)["provenance"] for name in store.names()}


def open_store(path: Path, spec: Spec) -> EpisodeStore:
    """The store at `path` for appending, new or continued; refuses one whose numbers mean something else."""
    if not (path / "zarr.json").exists():
        return EpisodeStore.create(path, spec)
    store = EpisodeStore.open(path, mode="a")
    try:
        store.spec.check(spec, "the robot")
    except ValueError:
        store.close()
        raise
    return store


def libraries() -> dict[str, str]:
    """Versions of what decides how an episode goes."""
    found = {"robot_value": __version__}
    for name in ("numpy", "mujoco", "robosuite", "ogbench"):
        with suppress(PackageNotFoundError):  # a robot needs only its own simulator
            found[name] = version(name)
    return found


@dataclass
class StopRequest:
    asked: bool = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Ctrl-C asks, and is answered between decisions; a second one interrupts at once. Inert off the main thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping: finished episodes are kept; press Ctrl-C again to stop at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
