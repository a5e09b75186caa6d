"""From an episode store to a trained policy or critic: cache, split, statistics, samplers, learner, train_offline."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .episodes.cache import Cache, open_cache
from .episodes.store import EpisodeStore
from .features.cached import RecordedEyes, find, read_features
from .goals import GoalConfig, goal_return_statistics
from .labels.cached import CacheLabels, read_labels
from .learners import CriticLearner, Joint, JointLearner, Learner, Optimization, PolicyLearner, learner_for
from .mixing import Sampler
from .networks.policy_features import seen_through
from .normalize import Statistics, fit_statistics
from .pool import PoolSampler, outline
from .ranks import here
from .sampling import ChunkSampler, split_episodes
from .training import TrainConfig, choose_device, load_model, load_policy, train_offline
from .types import Spec
from .windows import return_statistics


@dataclass(frozen=True)
class Windowing:
    """Which windows of which episodes a model is trained on."""

    horizon: int = 8  # H, control steps in a chunk
    n_obs_steps: int = 1  # O, observations in the history a model sees
    success_only: bool = False  # only successful episodes; for critics a negative control: they never see a failure
    reward_shuffle_seed: int | None = None  # permute rewards over all steps: the shuffled-critic control
    labels: str = ""  # name of labels (`robot-value data label`): rewards, outcomes and weights other than as recorded
    pool_bytes: int = 0  # RAM for each of training and validation, bytes, where the data are larger; 0: memory-mapped
    goals: GoalConfig = GoalConfig()  # which frames become goals, for models with `encoder.goal`


@dataclass(frozen=True)
class Job:
    """A policy, a critic, or both in one run. Plain values, so that it can be sent to another process."""

    data: str  # the episode store
    config: Any  # Config of a policy or critic
    training: TrainConfig
    windowing: Windowing = Windowing()
    optimization: Optimization = field(default_factory=Optimization)  # policies only
    base: str = ""  # checkpoint of a policy, for critics also LeRobot's: their backup or eyes, a policy's to stand on
    policy: Any = None  # Config of the policy that is trained together with the critic `config`
    joint: Joint = Joint()  # how
    trained_critic: str = ""  # checkpoint of the critic that a policy's loss asks, where none is trained with it


def fit(job: Job) -> Path:
    """Train (or go on training) and return the last checkpoint's folder; of both models, the run's."""
    windowing, train = job.windowing, job.training
    store = EpisodeStore.open(job.data)
    cache = outline(store) if windowing.pool_bytes else open_cache(store, progress=train.progress and here().index == 0)
    labels = read_labels(store, windowing.labels, cache) if windowing.labels else None
    _same_discount(job, labels)
    spec = cache.spec.choose(horizon=windowing.horizon, n_obs_steps=windowing.n_obs_steps)
    statistics = _statistics(store, cache, windowing)
    statistics["return"] = _return_statistics(job, cache, labels)
    device = choose_device(train.device)
    eyes = _recorded_eyes(job, store, cache)
    learner = make_learner(job, spec, statistics, cache.tasks, device, eyes)
    model = learner.critic.model if isinstance(learner, JointLearner) else learner.model
    if eyes and not _proposes(model):
        cache = replace(cache, images={})  # nobody looks at them
    train_on, held_out = split_episodes(len(cache), train.validation_fraction, train.seed)
    enough = _enough(job, cache, labels, held_out)
    sampler = partial(_sampler, job, model, store, cache, labels, eyes, device)
    return train_offline(learner, sampler(train_on), train, sampler(held_out) if enough else None)


def make_learner(
    job: Job,
    spec: Spec,
    statistics: Mapping[str, Statistics],
    tasks: Sequence[str],
    device: torch.device,
    eyes: RecordedEyes | None = None,  # what the job's base saw of the data, in its place
) -> Learner:
    """The models of the job with everything they ask attached, and what trains them."""
    base = load_policy(job.base, device) if eyes is None and job.base else eyes
    model = _config(job, base).build(spec, statistics, tasks).to(device)
    if job.policy is not None:
        policy = _policy(job.policy, base, spec, statistics, tasks).to(device)
        return JointLearner(
            CriticLearner(model), PolicyLearner(policy, job.training.steps, job.optimization), job.joint
        )
    if hasattr(model, "update"):
        if base is not None and getattr(model, "needs_policy", False):
            model.attach(_asked(job, model, base, device))
    else:
        model = _policy(job.config, base, spec, statistics, tasks).to(device)
        if job.trained_critic:
            _asks_a_critic(model)
            model.attach(load_model(job.trained_critic, device))
    return learner_for(model, job.training.steps, job.optimization)


def _asked(job: Job, critic: Any, base: Any, device: torch.device) -> Any:
    """The policy that a critic asks in training; of what was recorded, it itself is run for its chunks alone."""
    if not isinstance(base, RecordedEyes):
        return getattr(base, "target_policy", base)
    policy = load_policy(job.base, device) if _proposes(critic) else None
    there, runs = base.features, "not run" if policy is None else "run for its chunks alone"
    _say(f"{base.version}: its features of {len(there)} frames are read from {there.name}; it is {runs}")
    return RecordedEyes(base.features, getattr(policy, "target_policy", policy))


def _proposes(critic: Any) -> bool:
    return getattr(critic, "proposes", True)


def _say(line: str) -> None:
    if here().index == 0:
        print(line, file=sys.stderr)


def _policy(config: Any, base: Any, spec: Spec, statistics: Mapping[str, Statistics], tasks: Sequence[str]) -> Any:
    """Built on the base, if there is one: its sizes and its units, whatever the flags or the new data say."""
    if base is None:
        return config.build(spec, statistics, tasks)
    its_config = getattr(base, "config", base)  # LeRobot's has none of ours
    if not isinstance(its_config, type(getattr(config, "base", None))):
        asked, given = (type(each).__module__.rpartition(".")[2] for each in (config, its_config))
        raise ValueError(
            f"base: expected a policy that stands on a {given} one, got {asked}; "
            "train a critic alone to keep the base as it is"
        )
    base.spec.check(spec, "the data")
    measured = {name: base.statistics[name] for name in ("state", "action") if name in base.statistics}
    policy = replace(config, base=base.config).build(spec, {**statistics, **measured}, tasks)
    policy.adopt(base)
    return policy


def _asks_a_critic(policy: Any) -> None:
    if not hasattr(policy, "attach"):
        raise ValueError(
            f"trained_critic: expected a policy whose loss asks a critic, got {type(policy).__name__}; drop the flag"
        )


def _statistics(store: EpisodeStore, cache: Cache, windowing: Windowing) -> dict[str, Statistics]:
    """Of states and actions; streamed where they are not in a cache."""
    if not windowing.pool_bytes:
        return fit_statistics({"state": cache.state, "action": cache.action})
    read = partial(store.read, images=False, decisions=False)
    return {
        "state": Statistics.fit((read(name).states for name in cache.names), "state"),
        "action": Statistics.fit((read(name).actions for name in cache.names), "action"),
    }


def _recorded_eyes(job: Job, store: EpisodeStore, cache: Cache) -> RecordedEyes | None:
    """What the base saw of the data, where a critic looks through its eyes and `data features` wrote it down."""
    encoder = getattr(job.config, "encoder", None)
    if not job.base or job.policy is not None or getattr(encoder, "source", "own") == "own":
        return None
    version = _version(job.base)
    name = find(store, version, encoder.pooling)
    if name is None:
        command = f"robot-value data features {job.data} --policy={job.base} --pooling={encoder.pooling}"
        _say(f"{version}: none of its features are there, so it looks at every batch anew; once: {command}")
        return None
    if job.windowing.pool_bytes:
        raise ValueError("pool_bytes: expected 0 with a policy's features, which are memory-mapped; drop the flag")
    return RecordedEyes(read_features(store, name, cache))


def _version(policy: str) -> str:
    """Of a checkpoint; LeRobot's need not be loaded for it."""
    from .policies import lerobot_vla

    return lerobot_vla.version(policy) if lerobot_vla.is_checkpoint(policy) else load_policy(policy, "cpu").version


def _sampler(
    job: Job,
    model: Any,
    store: EpisodeStore,
    cache: Cache,
    labels: CacheLabels | None,
    eyes: RecordedEyes | None,
    device: Any,
    episodes: np.ndarray,
) -> Sampler:
    pool_bytes, features = job.windowing.pool_bytes, eyes and eyes.features
    mapped = partial(ChunkSampler, cache, features=features)
    make = partial(PoolSampler, store, cache, pool_bytes) if pool_bytes else mapped
    return make(
        horizon=job.windowing.horizon,
        n_obs_steps=job.windowing.n_obs_steps,
        offsets=getattr(model, "offsets", (job.windowing.horizon,)),
        gamma=getattr(model, "gamma", 0.99),
        batch_size=job.training.batch_size * (1 if job.policy is None else job.joint.critic_updates),
        seed=job.training.seed,
        share=(here().index, here().number),
        episodes=episodes,
        device=device,
        success_only=job.windowing.success_only,
        reward_shuffle_seed=job.windowing.reward_shuffle_seed,
        next_chunks=getattr(model, "next_chunks", False),
        goals=_goals(job),
        labels=labels,
    )


def _config(job: Job, base: Any) -> Any:
    """The model's config, with the base policy's width and version where the model sees through its eyes."""
    encoder = getattr(job.config, "encoder", None)
    if encoder is None or encoder.source == "own":
        return job.config
    if job.policy is not None:
        raise ValueError(
            "encoder.source=policy: expected a critic that is trained alone, got a policy trained with it, whose eyes "
            "would change; train the policy first and name it by --base"
        )
    return job.config if base is None else replace(job.config, encoder=seen_through(encoder, base))


def _goals(job: Job) -> GoalConfig | None:
    return job.windowing.goals if getattr(getattr(job.config, "encoder", None), "goal", False) else None


def _return_statistics(job: Job, cache: Cache, labels: CacheLabels | None) -> Statistics:
    gamma, goals = getattr(job.config, "gamma", 0.99), _goals(job)
    if goals is not None:
        return goal_return_statistics(goals, gamma, cache.steps.max())
    return return_statistics(cache, gamma, labels)


def _same_discount(job: Job, labels: CacheLabels | None) -> None:
    gamma = getattr(job.config, "gamma", None)
    if labels and None not in (gamma, labels.gamma) and gamma != labels.gamma:
        raise ValueError(
            f"labels {labels.name!r}: expected returns discounted by the critic's gamma {gamma}, got {labels.gamma}; "
            f"give --critic.gamma={labels.gamma}, or label again with --labeler.gamma={gamma}"
        )


def _enough(job: Job, cache: Cache, labels: CacheLabels | None, held_out: np.ndarray) -> bool:
    """A validation curve needs held-out episodes: successful ones where only those are drawn from, and with weight."""
    success = cache.success if labels is None else labels.success
    chosen = held_out[success[held_out] == 1] if job.windowing.success_only else held_out
    if labels is None or labels.weight is None:
        return len(chosen) > 0
    rows = zip(cache.step_start[chosen], cache.steps[chosen], strict=True)
    return any(labels.weight[start : start + steps].any() for start, steps in rows)
