"""Data and models of `bench_steering`, each in a folder named by what it was made of; run by worker processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from steering_study_protocol import CRITICS, POLICIES, Protocol, Task, key

from robot_value.collect import collect
from robot_value.episodes.durable import publish
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.scenarios import Part
from robot_value.training import TrainConfig
from robot_value.types import Episode

SEEDS = 10_000  # environment seeds of training seed s: from SEEDS * (s + 1), far from validation and test seeds
OTHER = 500_000  # added for the other task's data


@dataclass(frozen=True)
class Made:
    """One task's data and models of one training seed."""

    task: Task
    protocol: Protocol
    seed: int
    out: Path

    @property
    def root(self) -> Path:
        made_of = replace(self.task, test={}, designed_on=False)
        return self.out / f"{self.task.name}-{key(made_of, self.protocol.scale)}" / f"seed{self.seed}"

    @property
    def data(self) -> Path:
        return self.root / "episodes"

    @property
    def other_data(self) -> Path:
        return self.root / "other_episodes"

    def model(self, name: str) -> Path:
        return self.root / name


def make_data(made: Made, workers: int) -> dict[str, float]:
    """Collect what is missing; share of successes in the data."""
    episodes = max(10, round(made.task.episodes * made.protocol.scale))
    first = SEEDS * (made.seed + 1)
    shares = {"episodes": _collect(made.task.robot_config(), made.data, episodes, first, workers)}
    if made.task.other:
        config = made.task.robot_config(made.task.other)
        return shares | {"other": _collect(config, made.other_data, episodes, OTHER + first, workers)}
    return shares | {"other": reach(made.data, made.task.reach, made.other_data)}


def _collect(config: Any, path: Path, episodes: int, first: int, workers: int) -> float:
    done = collect(config, path, episodes, first, workers, min(50, episodes))
    if done.interrupted:
        raise KeyboardInterrupt
    with EpisodeStore.open(path) as store:
        return float(np.mean([bool(episode.success) for episode in store]))


def reach(source: Path, state: str, out: Path) -> float:
    """The same episodes for another task: they end with reward 1 where `state` passes its 90th percentile."""
    with EpisodeStore.open(source) as store:
        episodes, spec = list(store), store.spec
    column = spec.state_names.index(state)
    goal = np.quantile(np.concatenate([episode.states[:, column] for episode in episodes]), 0.9)
    relabelled = [until(episode, episode.states[1:, column] > goal) for episode in episodes]
    if not out.exists():
        partial = out.with_name(f"{out.name}.partial")
        with EpisodeStore.create(partial, spec) as target:
            for episode in relabelled:
                target.append(episode)
        publish(partial, out)
    return float(np.mean([bool(episode.success) for episode in relabelled]))


def until(episode: Episode, reached: np.ndarray) -> Episode:
    """`reached` bool[T], after each step: the episode ends there with reward 1, or goes on to its end with none."""
    success = bool(reached.any())
    end = int(reached.argmax()) + 1 if success else len(episode)
    rewards = np.zeros(end, np.float32)
    rewards[-1] = success
    return replace(
        episode,
        states=episode.states[: end + 1],
        actions=episode.actions[:end],
        commanded=None if episode.commanded is None else episode.commanded[:end],
        source=None if episode.source is None else episode.source[:end],
        rewards=rewards,
        terminated=success,
        truncated=not success,
        success=success,
        decisions=(),
    )


def jobs(made: Made) -> dict[str, Job]:
    """One per model, independent of each other."""
    return {name: _policy(made, name) for name in POLICIES} | {name: _critic(made, name) for name in CRITICS}


def train(job: Job) -> Path:
    return fit(job)


def _policy(made: Made, name: str) -> Job:
    """weak clones everything that was recorded, tuned the successes, for longer."""
    tuned = name == "tuned"
    config = Part("flow", {"seed": made.seed}).config("policies")
    windowing = Windowing(horizon=made.task.horizon, success_only=tuned)
    steps = made.task.tuned_steps if tuned else made.task.policy_steps
    return Job(str(made.data), config, _training(made, name, steps), windowing)


def _critic(made: Made, name: str) -> Job:
    config = Part("iql", {**made.task.critic, "seed": made.seed}).config("critics")
    shuffle = made.seed if name == "shuffled" else None
    windowing = Windowing(horizon=made.task.horizon, reward_shuffle_seed=shuffle)
    data = made.other_data if name == "other" else made.data
    return Job(str(data), config, _training(made, name, made.task.critic_steps), windowing)


def _training(made: Made, name: str, steps: int) -> TrainConfig:
    return TrainConfig(
        folder=str(made.model(name)),
        steps=max(20, round(steps * made.protocol.scale)),
        seed=made.seed,
        threads=1,
        device="cpu",
        matmul="default",
        progress=False,
        tensorboard=False,
    )
