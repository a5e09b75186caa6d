"""The actor's side, in a process of its own: plays a round of episodes with one version of the weights, stores them.

An episode is stored before anybody learns from it. A round that was cut off is completed: what its version has already
recorded is not recorded again.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..arms import MAIN
from ..collect import Missing, open_store
from ..display.places import of_part
from ..episodes.store import EpisodeStore
from ..evaluate import Arm, executed_steps
from ..loop import EpisodeSummary, Recorder, run_episodes
from ..playing import Site, robot_of, waves
from ..protocols import Robot, Watcher
from ..steering.steerer import Steerer
from ..training import load_model, load_policy
from ..types import HUMAN, Decision, Observation, Spec
from .supervised import Config as Supervisor
from .supervised import Supervised


@dataclass(frozen=True)
class Version:
    """Weights that act. Numbers only ever go up."""

    number: int
    policy: Path  # checkpoint
    critic: Path | None  # checkpoint; None: the plain policy acts


@dataclass(frozen=True)
class Round:
    number: int
    version: Version
    seeds: tuple[int, ...]  # environment seeds, one per episode


@dataclass(frozen=True)
class Acting:
    """What stays the same over a run. Plain values, for another process."""

    site: Site
    arm: Arm  # how the critic's scores become an action
    store: Path | None  # where episodes go; None: they are only counted (evaluation)
    seed: int  # key of the candidates' noise, and of a supervisor's chances
    task: str = ""
    supervisor: Supervisor | None = None  # who takes over while episodes are recorded; None: nobody
    display: Any = None  # Config of a displays component that shows rounds while they are recorded


@dataclass(frozen=True)
class Played:
    names: tuple[str, ...]  # in the store, in the order of the seeds
    success: tuple[bool, ...]
    steps: tuple[int, ...]
    human_steps: tuple[int, ...] = ()  # how many of them were a human's; () in an evaluation, where nobody takes over


def play(acting: Acting, round: Round) -> Played:
    known = recorded(acting.store, round)
    cut_off = [wave for wave in waves(round.seeds, acting.site.batch_size) if not known.keys() >= set(wave)]
    if cut_off:
        summaries = _play(acting, round, [seed for wave in cut_off for seed in wave], known)
        if acting.store is None:
            return Played((), tuple(s.success and not s.unstable for s in summaries), tuple(s.steps for s in summaries))
        known = recorded(acting.store, round)
    kept = [known[seed] for seed in round.seeds if seed in known and not known[seed].unstable]  # one may break at reset
    columns = (tuple(getattr(each, name) for each in kept) for name in ("name", "success", "steps"))
    return Played(*columns, _human_steps(acting.store, [each.name for each in kept]))


@dataclass(frozen=True)
class Known:
    """An episode that is in the store."""

    name: str
    seed: int
    round: int
    unstable: bool  # nothing to learn from
    success: bool
    steps: int


def recorded(path: Path | None, round: Round) -> dict[int, Known]:
    """The round's episodes that are in the store already, by seed."""
    if path is None or not (path / "zarr.json").exists():
        return {}
    store = EpisodeStore.open(path)
    every = [_known(str(path), store, name) for name in store.names()]
    return {each.seed: each for each in every if each.round == round.number}


_seen: dict[tuple[str, str], Known] = {}  # episodes never change


def _known(path: str, store: EpisodeStore, name: str) -> Known:
    if (path, name) not in _seen:
        about = store.about(name)
        made = about["provenance"]
        flags = bool(made["unstable"]), bool(about["success"])
        _seen[path, name] = Known(name, made["seed"], made.get("round", -1), *flags, about["steps"])
    return _seen[path, name]


def _human_steps(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    store = EpisodeStore.open(path)
    source = (store.read(name, images=False, decisions=False).source for name in names)
    return tuple(0 if each is None else int((each == HUMAN).sum()) for each in source)


def _play(acting: Acting, round: Round, seeds: Sequence[int], known: Container[int]) -> list[EpisodeSummary]:
    """Episodes of `known` seeds are played and not recorded."""
    policy = load_policy(round.version.policy)
    critics = {} if round.version.critic is None else {MAIN: load_model(round.version.critic)}
    steerer = acting.arm.steerer(policy, critics, executed_steps(None, policy, critics), acting.seed)
    tasks, n_obs_steps = [acting.task] * len(seeds), policy.spec.n_obs_steps
    if acting.store is None:
        return run_episodes(robot_of(acting.site, n_obs_steps), steerer, tasks=tasks, seeds=seeds)
    made: dict[str, Any] = {"round": round.number, "version": round.version.number}
    if acting.supervisor is None:
        robot, player = robot_of(acting.site, n_obs_steps), steerer
    else:
        robot = _shared_robot(acting.site, n_obs_steps)
        player = acting.supervisor.build(steerer, robot, acting.seed)
        made["supervisor"] = asdict(acting.supervisor)
    with (
        open_store(acting.store, robot.spec) as store,
        Recorder(store, made) as recorder,
        shown(acting.display, robot.spec, round) as watching,
    ):
        watchers = (Missing(recorder, known), *watching)
        return run_episodes(robot, Numbered(player, round.version.number), None, watchers, tasks, seeds)


@contextmanager
def shown(display: Any, spec: Spec, round: Round) -> Iterator[tuple[Watcher, ...]]:
    """The live view of a round, where one was asked for."""
    if display is None:
        yield ()
        return
    name = f"round_{round.number:04d}"
    with of_part(display, name).build(spec, name) as watcher:
        yield (watcher,)


@dataclass(frozen=True)
class Numbered:
    """Every decision says which version of the run's weights made it: `versions["online"]`."""

    player: Steerer | Supervised
    number: int

    def check(self, spec: Spec) -> None:
        self.player.check(spec)

    def reset(self, rows: Sequence[int] | None = None) -> None:
        self.player.reset(rows)

    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        decision = self.player(observation, active)
        return replace(decision, versions=decision.versions | {"online": str(self.number)})


@cache
def _shared_robot(site: Site, n_obs_steps: int) -> Robot:
    """One whose own expert can take rows over."""
    return site.robot.build(batch_size=site.batch_size, workers=0, n_obs_steps=n_obs_steps, driver="shared")
