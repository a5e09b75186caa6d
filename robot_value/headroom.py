"""How much could any choice among the same N candidates have gained, and how much of it did the selector find?

At stated decision points the simulator's state is saved; every candidate is executed from it and continued R times with
noise fixed per rollout (the same for all candidates), once with the base policy and once with the steered one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from .evaluate import Arm, executed_steps
from .loop import pictures
from .oracle import Tried, summarise
from .protocols import ChunkPolicy, Critic, Robot, Snapshot
from .steering.followers.plain import Config as PlainFollower
from .steering.steerer import Steerer
from .types import Decision

FOLLOWER = PlainFollower().build()


class SimulatedRobot(Robot, Snapshot, Protocol):
    """A Robot whose state can be saved and restored row by row."""


@dataclass(frozen=True)
class Config:
    n_episodes: int = 20  # episodes to visit, at most as many as seeds are given
    points: tuple[int, ...] = (0, 2, 4, 6)  # decisions of an episode at which every candidate is tried
    rollouts: int = 4  # R, continuations per candidate; half of them choose, the other half values (results.md)
    budget: float | None = None  # s; no block of episodes begins that would not fit, the first always does
    progress: bool = True  # show a progress bar

    def __post_init__(self) -> None:
        if self.rollouts < 2 or self.rollouts % 2:
            raise ValueError(f"rollouts: expected an even number >= 2 to split in halves, got {self.rollouts}")
        if not self.points or min(self.points) < 0 or len(set(self.points)) != len(self.points):
            raise ValueError(f"points: expected different decision indexes >= 0, got {self.points}")


@dataclass(frozen=True)
class Point:
    """A decision of an episode, with everything needed to decide differently."""

    decision: int  # index of the decision in its episode
    state: Mapping[str, Any]  # the simulator's row
    chunks: np.ndarray  # float32[C, H, A]: the N candidates, then the selector's chunk where it is a new one
    value: np.ndarray  # float64[N]
    selected: int  # row of `chunks` that the selector executes


@dataclass(frozen=True)
class Visited:
    """One episode of the base policy."""

    seed: int
    start: Mapping[str, Any]  # the simulator's row before the first decision
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Job:
    """One rollout: restore, execute `chunk` (or let the policy decide where None), continue."""

    state: Mapping[str, Any]
    chunk: np.ndarray | None  # float32[H, A]
    key: int  # episode key of the continuation's noise


@dataclass(frozen=True)
class Trials:
    """What was tried, before it is summed up; parts measured apart can be added."""

    tried: Mapping[str, Sequence[Tried]]  # continuation -> decision points
    alone: Sequence[np.ndarray]  # per stable episode: bool[N], success of independent base episodes from its start
    seeds: tuple[int, ...]  # episodes that were finished, stable or not
    seconds: float  # s


def headroom(
    robot: SimulatedRobot,
    policy: ChunkPolicy,
    critics: Mapping[str, Critic],
    arm: Arm,
    seeds: Sequence[int],
    *,
    execute: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    config: Config | None = None,
) -> dict[str, dict[str, Any]]:
    """{"base": figures, "steered": figures}, by continuation, in the shape of results.json's "headroom".

    Points lie on the base policy's own path (candidate 0), so that both continuations are judged at the same states.
    """
    config = config or Config()
    trials = measure(robot, policy, critics, arm, seeds, execute=execute, seed=seed, device=device, config=config)
    return figures([trials], arm, config)


def measure(
    robot: SimulatedRobot,
    policy: ChunkPolicy,
    critics: Mapping[str, Critic],
    arm: Arm,
    seeds: Sequence[int],
    *,
    execute: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    config: Config,
) -> Trials:
    """Try every candidate at the points of the first `config.n_episodes` seeds, as far as the budget goes."""
    started = time.monotonic()
    execute = executed_steps(execute, policy, critics)
    steerers = {
        "base": Steerer(policy, n=1, execute=execute, seed=seed, device=device),
        "steered": arm.steerer(policy, critics, execute, seed, device),
    }
    with pictures(robot, every=False):
        episodes = _visit(robot, steerers["steered"], [int(s) for s in seeds[: config.n_episodes]], config.points)
        tried: dict[str, list[Tried]] = {name: [] for name in steerers}
        alone: list[np.ndarray] = []
        done = 0
        with tqdm(total=len(episodes), desc="headroom episodes", disable=not config.progress) as bar:
            for block in _blocks(episodes, robot.batch_size, arm.n, config):
                elapsed = time.monotonic() - started
                if config.budget is not None and done and elapsed * (done + len(block)) / done > config.budget:
                    break
                for points, own in _try(robot, steerers, block, arm.n, config.rollouts):
                    alone.append(own)
                    for name in steerers:
                        tried[name] += points[name]
                done += len(block)
                bar.update(len(block))
    return Trials(tried, alone, tuple(e.seed for e in episodes[:done]), time.monotonic() - started)


def figures(parts: Sequence[Trials], arm: Arm, config: Config) -> dict[str, dict[str, Any]]:
    """The figures by continuation of trials that were measured together or apart (on different seeds)."""
    seeds = sorted(seed for part in parts for seed in part.seeds)
    alone = [own for part in parts for own in part.alone]
    tried = {name: [point for part in parts for point in part.tried[name]] for name in parts[0].tried}
    if not alone:
        raise RuntimeError(f"headroom: none of {len(seeds)} episodes stayed stable; there is nothing to summarise")
    stated = {
        "candidates": arm.n,
        "points": len(config.points),
        "decisions": list(config.points),
        "rollouts": config.rollouts,
        "visited_by": "base",
        "arm": arm.name,
        "new_chunk": any(len(point.success) > arm.n for point in tried["base"]),
        "excluded_unstable_episodes": len(seeds) - len(alone),
        "seeds": seeds,
        "seconds": max(part.seconds for part in parts),
    }
    return {
        name: {**stated, "continuation": name, **summarise(points, np.array(alone), arm.n)}
        for name, points in tried.items()
    }


def _visit(robot: SimulatedRobot, steerer: Steerer, seeds: Sequence[int], at: Sequence[int]) -> list[Visited]:
    """Each seed's base episode up to its last decision point, with the chunks that the arm would choose among."""
    episodes = []
    for group in _batches(seeds, robot.batch_size):
        rows = _padded(group, robot.batch_size)
        observation = robot.reset([""] * len(rows), rows)
        steerer.reset()
        active = np.arange(len(rows)) < len(group)
        starts, points = robot.save_state(), [[] for _ in group]
        for index in range(max(at) + 1):
            if not active.any():
                break
            decision = steerer(observation, active)
            if index in at:
                states = robot.save_state()
                for row in np.flatnonzero(active):
                    points[row].append(_point(decision, row, index, states[row]))
            plain = replace(decision, chunk=decision.candidates[:, 0])
            steerer.told(observation, plain)
            outcome = robot.execute(_only(plain, active), FOLLOWER)
            observation, active = outcome.observation, active & ~outcome.done
        episodes += [Visited(seed, starts[row], tuple(points[row])) for row, seed in enumerate(group)]
    return episodes


def _point(decision: Decision, row: int, index: int, state: Mapping[str, Any]) -> Point:
    chunks, selected = decision.candidates[row], int(decision.index[row])
    if not len(chunks) or not np.isfinite(chunks).all():
        raise ValueError(f"headroom: expected finite candidates to try, got some that are not among {len(chunks)}")
    if selected < 0:
        selected, chunks = len(chunks), np.concatenate([chunks, decision.chunk[row][None]])
    return Point(index, state, chunks, decision.value[row].astype(float), selected)


def _blocks(episodes: Sequence[Visited], batch_size: int, n: int, config: Config) -> list[Sequence[Visited]]:
    """Episodes played together: enough to fill the robot's rows twice, few enough to keep to a budget."""
    rollouts = (n + 1) * config.rollouts * len(config.points)
    return _batches(episodes, max(1, 2 * batch_size // rollouts))


def _try(
    robot: SimulatedRobot, steerers: Mapping[str, Steerer], block: Sequence[Visited], n: int, rollouts: int
) -> list[tuple[dict[str, list[Tried]], np.ndarray]]:
    """Per stable episode: its points by continuation, and bool[N] success of N independent base episodes."""
    alone = [Job(episode.start, None, _key(episode.seed, 0, i)) for episode in block for i in range(n)]
    jobs = [
        Job(point.state, chunk, _key(episode.seed, 1 + point.decision, rollout))
        for episode in block
        for point in episode.points
        for chunk in point.chunks
        for rollout in range(rollouts)
    ]
    tries = _play(robot, steerers["base"], alone).reshape(len(block), n)
    played = {name: iter(_play(robot, steerer, jobs)) for name, steerer in steerers.items()}
    found = []
    for episode, own in zip(block, tries, strict=True):
        points = {
            name: [
                Tried(
                    episode.seed,
                    point.decision,
                    _take(success, len(point.chunks), rollouts),
                    point.value,
                    point.selected,
                )
                for point in episode.points
            ]
            for name, success in played.items()
        }
        everything = [own, *(point.success for name in points for point in points[name])]
        if all(np.isfinite(success).all() for success in everything):
            found.append((points, own > 0))
    return found


def _play(robot: SimulatedRobot, steerer: Steerer, jobs: Sequence[Job]) -> np.ndarray:
    """float64[jobs]: 1 where the rollout succeeded, 0 where not, NaN where the simulator became unstable."""
    return np.concatenate([_play_batch(robot, steerer, batch) for batch in _batches(jobs, robot.batch_size)])


def _play_batch(robot: SimulatedRobot, steerer: Steerer, jobs: Sequence[Job]) -> np.ndarray:
    rows = _padded(jobs, robot.batch_size)
    keys = np.array([job.key for job in rows], np.int64)
    observation = robot.load_state([job.state for job in rows])
    steerer.reset()
    active, first = np.arange(len(rows)) < len(jobs), True
    success, unstable = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    while active.any():
        seen = replace(observation, episode=keys)
        decision = steerer(seen, active)
        if first:
            decision = _forced(decision, rows)
            steerer.told(seen, decision)
        outcome = robot.execute(_only(decision, active), FOLLOWER)
        success |= active & outcome.success
        unstable |= active & outcome.unstable
        observation, active, first = outcome.observation, active & ~outcome.done, False
    return np.where(unstable, np.nan, success)[: len(jobs)]


def _forced(decision: Decision, jobs: Sequence[Job]) -> Decision:
    """The decision with each job's own chunk, where it has one."""
    chunks = [decision.chunk[row] if job.chunk is None else job.chunk for row, job in enumerate(jobs)]
    return replace(decision, chunk=np.stack(chunks))


def _only(decision: Decision, active: np.ndarray) -> Decision:
    """Rows without work execute nothing: simulated steps are what headroom costs."""
    return replace(decision, execute=np.where(active, decision.execute, 0))


def _key(seed: int, point: int, rollout: int) -> int:
    """An episode key of its own: the same for every candidate, different from the visited episode's noise."""
    return int(np.random.SeedSequence([seed, point, rollout]).generate_state(1, np.uint64)[0] >> 1)


def _take(success: Iterator[float], chunks: int, rollouts: int) -> np.ndarray:
    """float64[C, R]: the next rollouts, in the order of the jobs."""
    return np.array(list(islice(success, chunks * rollouts))).reshape(chunks, rollouts)


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _padded(items: Sequence[Any], size: int) -> list[Any]:
    """A robot has no empty rows: the last item fills those that have no work of their own."""
    return [*items, *[items[-1]] * (size - len(items))]
