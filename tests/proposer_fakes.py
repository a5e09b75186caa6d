"""Requests, policies and small parts that the tests of proposers share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from contracts import TOLERANCE
from fakes import HomingCritic, HomingPolicy, observation, point_spec
from learning_fakes import statistics
from recorded import make_episode, memory_cache

from robot_value import components
from robot_value.policies import flow
from robot_value.steering.proposal import Request
from robot_value.steering.proposers import (
    actor,
    retrieval,
)
from robot_value.types import Scores

SPEC = point_spec(horizon=4)


@dataclass
class NoiseJudge(HomingCritic):
    """A critic that also judges noise, by its first number; at a flow time by that time."""

    def score_noise(self, context, noise, time=None) -> Scores:
        value = noise[:, :, 0, 0] if time is None else time + 1e-3 * noise[:, :, 0, 0]
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


@cache
def flow_policy(seed=0):
    return flow.Config(width=16, depth=1, sample_steps=5, seed=seed).build(SPEC, statistics(SPEC)).eval()


def recorded(count=6, state_dim=2):
    """Episodes of a robot that takes SPEC's actions."""
    rng = np.random.default_rng(0)
    data = SPEC.choose(horizon=0, n_obs_steps=0)
    return [
        make_episode(data, steps=5 + i, seed=i, states=rng.normal(size=(6 + i, state_dim)).astype(np.float32), task="")
        for i in range(count)
    ]


def build(name):
    """Each proposer with small parts; the two that need files get what the files hold."""
    if name == "actor":
        return actor.Actor(HomingPolicy(SPEC, scale=0.1), share=0.5)
    if name == "retrieval":
        return retrieval.Retrieval(memory_cache(recorded()), retrieval.Config(data="memory", neighbours=2))
    return components.load("proposers", name).Config().build()


def request(n=6, batch=3, policy=None, critic=None, seen=None, **changes) -> Request:
    policy = policy or flow_policy()
    seen = observation(policy.spec, batch) if seen is None else seen
    critic = critic or NoiseJudge(policy.spec, scope=2)
    made = Request(
        policy=policy,
        context=policy.encode(seen),
        observation=seen,
        n=n,
        seed=0,
        device=torch.device("cpu"),
        execute=2,
        critic=critic,
        critic_context=critic.encode(seen),
        previous=torch.linspace(-0.5, 0.5, seen.batch_size * 8).view(-1, 4, 2),
    )
    return replace(made, **changes)


def late(batch=3):
    """Robots that will execute 0, 1 and 2 more pending actions."""
    pending = np.random.default_rng(7).uniform(-0.9, 0.9, (batch, 3, 2)).astype(np.float32)
    return observation(SPEC, batch, pending=pending, committed=np.arange(batch) % 3)


def same(a, b, tolerance=TOLERANCE):
    return torch.allclose(a, b, atol=tolerance, rtol=0, equal_nan=True)
