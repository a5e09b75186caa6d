"""Arms x training seeds x waves played side by side: each process has a robot and the models, and plays one at a time.

A wave is what is simulated at once. Episodes do not depend on which process plays which wave, nor on what it played
before: the figures are the same for any number of processes, of this machine or of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from . import headroom as oracle
from .arms import MAIN
from .evaluate import Arm, Comparison, compare, in_a_row, pool
from .protocols import Robot, Watcher
from .training import load_model, load_policy, torch_threads
from .types import Episode
from .video import Keeper
from .workers import run_all


@dataclass(frozen=True)
class Models:
    """What one training seed brings to a study."""

    training_seed: int
    policy: Path
    critics: Mapping[str, Path]  # "main", and the controls "shuffled" and "success_only" where they were trained


@dataclass(frozen=True)
class Trained:
    """Models of one training seed, loaded."""

    training_seed: int
    policy: Any
    critics: Mapping[str, Any]


@dataclass(frozen=True)
class Site:
    """Where a study plays. Plain values, so that every process can build a robot of its own."""

    robot: Any  # Config of a robots component
    batch_size: int = 50  # robots simulated at once
    workers: int = 2  # processes
    backend: str = "local"  # local | ray: where the processes are (workers.py)

    def build(self, workers: int, n_obs_steps: int) -> Robot:
        return self.robot.build(batch_size=self.batch_size, workers=workers, n_obs_steps=n_obs_steps, driver="policy")


def waves(seeds: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """What is simulated at once. An episode's last bits depend on its row: a wave that was cut off is played whole."""
    return [tuple(seeds[i : i + batch_size]) for i in range(0, len(seeds), batch_size)]


@dataclass(frozen=True)
class Play:
    """One arm of one training seed."""

    site: Site
    models: Models
    arm: Arm
    seeds: tuple[int, ...]  # environment seeds
    seed: int  # key of the candidates' noise
    keep: tuple[int, ...] = ()  # environment seeds whose episodes are wanted


def load(models: Models) -> Trained:
    critics = {name: _model(path) for name, path in models.critics.items()}
    return Trained(models.training_seed, _policy(models.policy), critics)


def play_all(
    processes: Executor,
    site: Site,
    models: Sequence[Models],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    seed: int,
    keep: Sequence[int] = (),
    what: str = "arms",
    shown: tuple[str, Any] | None = None,  # an arm's name, and the Config of a displays component
) -> tuple[Comparison, dict[str, dict[int, Episode]]]:
    """Every arm for every training seed, pooled; and the kept episodes of the first training seed by arm.

    The arm that is shown is played first, by this process, for the first training seed.
    """
    parts = waves(seeds, site.batch_size)
    jobs = {
        (i, arm.name, w): (play, (Play(site, each, arm, wave, seed, _kept(keep, wave) if i == 0 else ()),))
        for i, each in enumerate(models)
        for arm in arms
        for w, wave in enumerate(parts)
    }
    done = {} if shown is None else _before_viewers({k: v for k, v in jobs.items() if k[:2] == (0, shown[0])}, *shown)
    done |= run_all(processes, {key: call for key, call in jobs.items() if key not in done}, what)
    played = {
        (i, arm.name): [done[i, arm.name, w] for w in range(len(parts))] for i in range(len(models)) for arm in arms
    }
    whole = {key: in_a_row([found for found, _ in row]) for key, row in played.items()}
    episodes = {arm.name: {s: e for _, kept in played[0, arm.name] for s, e in kept.items()} for arm in arms}
    return pool([join({arm.name: whole[i, arm.name] for arm in arms}) for i in range(len(models))]), episodes


def _kept(keep: Sequence[int], wave: Sequence[int]) -> tuple[int, ...]:
    return tuple(seed for seed in keep if seed in wave)


def _before_viewers(jobs: Mapping[Any, tuple[Any, tuple[Play]]], name: str, display: Any) -> dict[Any, Any]:
    """One after the other; with one thread, as the processes play."""
    (first,) = next(iter(jobs.values()))[1]
    with torch_threads(1), display.build(load(first.models).policy.spec, name) as watcher:
        return {key: play(job, (watcher,)) for key, (_, (job,)) in jobs.items()}


def play(job: Play, watchers: Sequence[Watcher] = ()) -> tuple[Comparison, dict[int, Episode]]:
    trained, keeper = load(job.models), Keeper(job.keep)
    found = compare(
        robot_of(job.site, trained.policy.spec.n_obs_steps),
        trained.policy,
        trained.critics,
        [job.arm],
        job.seeds,
        seed=job.seed,
        training_seed=trained.training_seed,
        gamma=getattr(trained.critics[MAIN], "gamma", 0.99),
        watchers=lambda arm: (*([keeper] if job.keep else []), *watchers),
        progress=False,
    )
    return found, keeper.episodes


def measure_all(
    processes: Executor,
    site: Site,
    models: Models,
    arm: Arm,
    seeds: Sequence[int],
    seed: int,
    config: oracle.Config,
) -> dict[str, dict[str, Any]]:
    """Headroom of one training seed, its episodes dealt out to the processes; each has the whole time budget."""
    parts = max(1, min(site.workers, config.n_episodes))
    seeds = tuple(seeds[: config.n_episodes])
    calls = {i: (measure, (Play(site, models, arm, seeds[i::parts], seed), config)) for i in range(parts)}
    return oracle.figures(list(run_all(processes, calls, "headroom").values()), arm, config)


def measure(job: Play, config: oracle.Config) -> oracle.Trials:
    trained = load(job.models)
    robot = robot_of(job.site, trained.policy.spec.n_obs_steps)
    quiet = replace(config, progress=False)
    return oracle.measure(robot, trained.policy, trained.critics, job.arm, job.seeds, seed=job.seed, config=quiet)


def join(comparisons: Mapping[str, Comparison]) -> Comparison:
    """Arms that were played apart, on the same environment seeds by the same models, as one comparison."""
    first = next(iter(comparisons.values()))
    return replace(first, arms={name: found.arms[name] for name, found in comparisons.items()})


_model, _policy = cache(load_model), cache(load_policy)  # a process plays many arms with the same checkpoints


@cache
def robot_of(site: Site, n_obs_steps: int) -> Robot:
    return site.build(0, n_obs_steps)
