"""The updates that bench_critic_updates times: the pages of Q-chunking and QC-FQL at the reference's sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from blocks import Arm, interleave, median_ms
from critic_fidelity import CANDIDATES, HORIZON, fidelity

from robot_value.critics import qc, qc_fql
from robot_value.curves import Curves
from robot_value.episodes.cache import Cache
from robot_value.learners import CriticLearner, JointLearner, PolicyLearner
from robot_value.networks.packed import choose
from robot_value.normalize import fit_statistics
from robot_value.policies import flow, one_step
from robot_value.sampling import ChunkSampler
from robot_value.training import TrainConfig

BATCH, WIDTH, DEPTH = 256, 512, 4
FLOW = flow.Config(width=WIDTH, depth=DEPTH)
PRECISIONS = ("off", "float32", "bfloat16")  # plain, and packed where no gradient is asked for
OVERHEAD = 0.08  # goal: share of a QC-FQL update that is not the networks', at most


@dataclass(frozen=True)
class Case:
    name: str
    actor_type: str  # of the reference
    members: int  # K
    goals: dict[str, float]  # precision -> least ratio to the reference


CASES = (
    Case("QC best-of-32", "best-of-n", 2, {"float32": 1.2, "bfloat16": 2.2}),
    Case("QC best-of-32", "best-of-n", 10, {"bfloat16": 2.5}),
    Case("QC-FQL", "distill-ddpg", 2, {"float32": 0.95, "bfloat16": 1.0}),
    Case("QC-FQL", "distill-ddpg", 10, {"float32": 0.95, "bfloat16": 1.5}),
)


def learner_of(case: Case, cache: Cache, precision: str) -> JointLearner:
    spec = cache.spec.choose(horizon=HORIZON, n_obs_steps=1)
    statistics = fit_statistics({"state": cache.state, "action": cache.action})
    critic = {"members": case.members, "hidden": (WIDTH,) * DEPTH}
    if case.actor_type == "best-of-n":
        policy, page = FLOW, qc.Config(candidates=CANDIDATES, precision=precision, **critic)
    else:
        policy = one_step.Config(base=FLOW, width=WIDTH, depth=DEPTH, precision=precision)
        page = qc_fql.Config(**critic)
    critic, actor = page.build(spec, statistics), policy.build(spec, statistics)
    return JointLearner(CriticLearner(critic), PolicyLearner(actor, steps=100_000))


def sampler_of(cache: Cache) -> ChunkSampler:
    return ChunkSampler(cache, HORIZON, 1, (HORIZON,), batch_size=BATCH)


def update_of(case: Case, cache: Cache, precision: str) -> Callable[[], object]:
    learner, sampler = learner_of(case, cache, precision), sampler_of(cache)
    generator = torch.Generator().manual_seed(0)
    return lambda: learner.update(sampler.sample(), generator)


def trained_fidelity(cache: Cache, updates: int) -> dict[str, dict[str, float]]:
    """Per precision, after `updates` of QC with 4 candidates in the backup."""
    learner = learner_of(CASES[0], cache, "off")
    critic, policy = learner.critic.model, learner.policy.model
    critic.config = replace(critic.config, candidates=4)
    sampler, generator = sampler_of(cache), torch.Generator().manual_seed(0)
    for _ in range(updates):
        learner.update(sampler.sample(), generator)
    batch = sampler.sample()
    return {p: fidelity(policy.eval(), critic.eval(), batch, p) for p in PRECISIONS[1:]}


def chosen(cache: Cache) -> dict[str, str]:
    """What "auto" takes on this machine."""
    learner = learner_of(CASES[0], cache, "off")
    parts = {"policy": learner.policy.model.head, "critic": learner.critic.model.q.net}
    return {name: choose(part, part.forward, "auto") for name, part in parts.items()}


def overheads(cache: Cache, folder: Path, seconds: float) -> dict[str, float | bool | None]:
    """Shares of a QC-FQL update, K = 2, that are not the networks': batches, Adam, averages, curves."""
    learner, sampler = learner_of(CASES[2], cache, "off"), sampler_of(cache)
    generator, curves = torch.Generator().manual_seed(0), Curves(folder, TrainConfig(tensorboard=False), 0)
    critic, policy = learner.critic, learner.policy
    metrics = learner.update(sampler.sample(), generator)  # leaves gradients for Adam

    def log() -> None:
        for step in range(100):
            curves.add("train", step, metrics)
        curves.flush("train", 100)

    arms = {
        "update": Arm(lambda: learner.update(sampler.sample(), generator)),
        "sampling": Arm(sampler.sample),
        "adam": Arm(lambda: (critic.model.optimizer.step(), policy.optimizer.step())),
        "averages": Arm(lambda: (critic.model._after_update(critic.model), policy.ema.update(policy.model, 0))),
        "logging of 100": Arm(log),
    }
    interleave(arms, seconds)
    ms = {name: median_ms(arm)["ms"] for name, arm in arms.items()}
    ms["logging"] = ms.pop("logging of 100") / 100
    share = sum(value for name, value in ms.items() if name != "update") / ms["update"]
    trusted = all(arm.trusted for arm in arms.values())
    return {f"{n}_ms": v for n, v in ms.items()} | {"share": share, "passed": share <= OVERHEAD if trusted else None}
