"""The actor's side, in a process of its own: plays a round of episodes with one version of the weights, stores them.

An episode is stored before anybody learns from it. A round that was cut off is completed: what its version has already
recorded is not played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arms import MAIN
from ..collect import open_store
from ..episodes.store import EpisodeStore
from ..evaluate import Arm, executed_steps
from ..loop import EpisodeSummary, Recorder, run_episodes
from ..playing import Site, robot_of
from ..training import load_model, load_policy


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
    seed: int  # key of the candidates' noise
    task: str = ""


@dataclass(frozen=True)
class Played:
    names: tuple[str, ...]  # in the store, in the order of the seeds
    success: tuple[bool, ...]
    steps: tuple[int, ...]


def play(acting: Acting, round: Round) -> Played:
    known = recorded(acting.store, round)
    missing = [seed for seed in round.seeds if seed not in known]
    if missing:
        summaries = _play(acting, round, missing)
        if acting.store is None:
            return Played((), tuple(s.success and not s.unstable for s in summaries), tuple(s.steps for s in summaries))
        known = recorded(acting.store, round)
    kept = [known[seed] for seed in round.seeds if not known[seed].unstable]
    return Played(*(tuple(getattr(each, name) for each in kept) for name in ("name", "success", "steps")))


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


def _play(acting: Acting, round: Round, seeds: Sequence[int]) -> list[EpisodeSummary]:
    policy = load_policy(round.version.policy)
    critics = {} if round.version.critic is None else {MAIN: load_model(round.version.critic)}
    robot = robot_of(acting.site, policy.spec.n_obs_steps)
    steerer = acting.arm.steerer(policy, critics, executed_steps(None, policy, critics), acting.seed)
    tasks = [acting.task] * len(seeds)
    if acting.store is None:
        return run_episodes(robot, steerer, tasks=tasks, seeds=seeds)
    made = {"round": round.number, "version": round.version.number}
    with open_store(acting.store, robot.spec) as store, Recorder(store, made) as recorder:
        return run_episodes(robot, steerer, None, (recorder,), tasks, seeds)
