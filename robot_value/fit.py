"""From an episode store to a trained policy or critic: cache, split, statistics, samplers, learner, train_offline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .episodes.cache import Cache, open_cache
from .episodes.store import EpisodeStore
from .learners import Optimization, learner_for
from .normalize import fit_statistics
from .sampling import ChunkSampler, split_episodes
from .training import TrainConfig, choose_device, load_model, train_offline
from .windows import return_statistics


@dataclass(frozen=True)
class Windowing:
    """Which windows of which episodes a model is trained on."""

    horizon: int = 8  # H, control steps in a chunk
    n_obs_steps: int = 1  # O, observations in the history a model sees
    success_only: bool = False  # only successful episodes; for critics a negative control: they never see a failure
    reward_shuffle_seed: int | None = None  # permute rewards over all steps: the shuffled-critic control


@dataclass(frozen=True)
class Job:
    """One model to train. Plain values, so that it can be sent to another process."""

    data: str  # the episode store
    config: Any  # Config of a policy or critic
    training: TrainConfig
    windowing: Windowing = Windowing()
    optimization: Optimization = field(default_factory=Optimization)  # policies only
    base: str = ""  # checkpoint of the policy whose chunks the critic's backup values, where it asks for one


def fit(job: Job) -> Path:
    """Train (or go on training) and return the last checkpoint's folder."""
    with EpisodeStore.open(job.data) as store:
        cache = open_cache(store, progress=job.training.progress)
    windowing, train = job.windowing, job.training
    spec = cache.spec.choose(horizon=windowing.horizon, n_obs_steps=windowing.n_obs_steps)
    statistics = fit_statistics({"state": cache.state, "action": cache.action})
    statistics["return"] = return_statistics(cache, getattr(job.config, "gamma", 0.99))
    device = choose_device(train.device)
    model = job.config.build(spec, statistics, cache.tasks).to(device)
    if getattr(model, "needs_policy", False) and job.base:
        model.attach(load_model(job.base, device))
    train_on, held_out = split_episodes(len(cache), train.validation_fraction, train.seed)
    learner = learner_for(model, train.steps, job.optimization)
    validation = _sampler(job, model, cache, held_out, device) if _enough(job, cache, held_out) else None
    return train_offline(learner, _sampler(job, model, cache, train_on, device), train, validation)


def _sampler(job: Job, model: Any, cache: Cache, episodes: Any, device: Any) -> ChunkSampler:
    return ChunkSampler(
        cache,
        horizon=job.windowing.horizon,
        n_obs_steps=job.windowing.n_obs_steps,
        offsets=getattr(model, "offsets", (job.windowing.horizon,)),
        gamma=getattr(model, "gamma", 0.99),
        batch_size=job.training.batch_size,
        seed=job.training.seed,
        episodes=episodes,
        device=device,
        success_only=job.windowing.success_only,
        reward_shuffle_seed=job.windowing.reward_shuffle_seed,
    )


def _enough(job: Job, cache: Cache, held_out: np.ndarray) -> bool:
    """A validation curve needs held-out episodes, and successful ones where only those are drawn from."""
    return bool((cache.success[held_out] == 1).any()) if job.windowing.success_only else len(held_out) > 0
