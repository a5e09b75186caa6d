"""From checkpoints and names of parts to what decides on a robot: loaded, compared with it, warmed up and measured.

Every refusal is a ValueError that names both sides; nothing has moved yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import components
from ..protocols import ChunkFollower, ChunkPolicy, Critic
from ..steering.steerer import Steerer
from ..steering.two_speeds import ThinkAhead
from ..training import choose_device, load_model, load_policy
from ..types import Observation, Spec
from .cautious import Cautious

if TYPE_CHECKING:
    from ..online.publication import Published

WARM_UP = 12  # decisions; the first ones are slow and not measured
UNMEASURED = 4


@dataclass(frozen=True)
class Setup:
    robot: str  # what the robot is called in refusals: its topics file
    policy: str  # checkpoint
    critic: str = ""  # checkpoint; "": none
    critic_required: bool = True  # refuse without a usable critic; else the policy acts alone
    ahead: bool = False  # decide while the arm moves
    lockstep: bool = False
    n: int = 16
    execute: int = 0  # 0: the critic's scope, else the horizon
    parts: Mapping[str, str] = field(default_factory=dict)  # kind -> name; "" is the default
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # kind -> its Config's fields
    seed: int = 0
    deadline: float | None = None  # s
    exact: bool = False
    precision: str = "off"
    device: str = "cpu"
    threads: int = 1  # of torch
    lag: int = -1  # control steps; -1: from the measured latency
    number: int | None = None  # of an online run's version: every decision tells it, as "online"
    expected: Mapping[str, str] = field(default_factory=dict)  # "policy", "critic" -> version; empty: whatever is there


@dataclass
class Thinking:
    """What a robot is steered by."""

    policy: ChunkPolicy
    steerer: Cautious
    thinker: Cautious | ThinkAhead  # what the loop asks
    follower: Callable[[], ChunkFollower]  # a fresh one per episode
    lag: int  # control steps, 0 where the robot waits for decisions
    latency: tuple[float, float]  # s, p50 and p99 of warm decisions
    warnings: tuple[str, ...]
    versions: dict[str, str]

    def close(self) -> None:
        if isinstance(self.thinker, ThinkAhead):
            self.thinker.close()


def prepare(setup: Setup, robot: Spec) -> Thinking:
    """Raises ValueError. Sets torch's number of threads for this process."""
    torch.set_num_threads(setup.threads)
    device, warnings = choose_device(setup.device), []
    policy = _load("policy", setup.policy, lambda: load_policy(setup.policy, device))
    if not hasattr(policy, "sample"):
        raise ValueError(f"policy {setup.policy}: expected a policy, got {type(policy).__name__}; is it the critic's?")
    _same_contract(f"policy {setup.policy}", policy.spec, setup.robot, robot)
    critic = None
    try:
        critic = _critic(setup, policy, robot, device)
    except ValueError as error:
        if setup.critic_required:
            raise
        warnings.append(f"{error}; the policy acts alone")
    versions = {"policy": policy.version} | ({} if critic is None else {"critic": critic.version})
    _expected(setup, versions)
    named = {} if setup.number is None else {"online": str(setup.number)}
    statistics = getattr(policy, "statistics", {}).get("action")
    steerer = Cautious(_steerer(setup, policy, critic, str(device)), statistics, named=named)
    latency = warm_up(steerer, policy)
    lag = _lag(setup, latency[1], robot.dt) if setup.ahead else 0
    follower = _follower(setup)
    follower()  # a wrong one is refused now
    thinker = ThinkAhead(steerer, lag=lag, lockstep=setup.lockstep) if setup.ahead else steerer
    return Thinking(policy, steerer, thinker, follower, lag, latency, tuple(warnings), versions | named)


def as_published(setup: Setup, published: Published) -> Setup:
    """The setup with what an online run has made, where it has."""
    made = {kind: str(path) for kind, path in published.made.items()}
    return replace(setup, **made, number=published.number, expected=published.versions)


def warm_up(steerer: Cautious, policy: ChunkPolicy) -> tuple[float, float]:
    """p50 and p99 of the decision's latency in s, on an observation that is the data's mean; nothing is remembered."""
    observation, seconds = typical(policy), []
    for i in range(WARM_UP):
        began = time.perf_counter()
        try:
            steerer.steerer(observation)
        except Exception as error:
            raise ValueError(f"warm-up: expected a decision, got {type(error).__name__}: {error}") from error
        if i >= UNMEASURED:
            seconds.append(time.perf_counter() - began)
    steerer.reset()
    return float(np.quantile(seconds, 0.5)), float(np.quantile(seconds, 0.99))


def typical(policy: ChunkPolicy) -> Observation:
    """An observation of one robot in the middle of the data, with grey pictures."""
    spec, history = policy.spec, max(1, policy.spec.n_obs_steps)
    statistics = getattr(policy, "statistics", {}).get("state")
    mean = np.zeros(spec.state_dim, np.float32) if statistics is None else statistics.mean
    return Observation(
        state=np.broadcast_to(mean, (1, history, spec.state_dim)).astype(np.float32),
        images={
            camera.name: np.full((1, history, camera.height, camera.width, 3), 128, np.uint8) for camera in spec.cameras
        },
        task=("",),
        time=np.zeros(1),
        step=np.zeros(1, np.int64),
        episode=np.zeros(1, np.int64),
        pending=np.zeros((1, 0, spec.action_dim), np.float32),
        committed=np.zeros(1, np.int64),
    )


def _critic(setup: Setup, policy: ChunkPolicy, robot: Spec, device: torch.device) -> Critic | None:
    if not setup.critic:
        return None
    critic = _load("critic", setup.critic, lambda: load_model(setup.critic, device))
    _same_contract(f"critic {setup.critic}", critic.spec, setup.robot, robot)
    _steerer(setup, policy, critic, str(device))  # a critic that does not fit is refused here
    return critic


def _load(what: str, path: str, load: Callable[[], Any]) -> Any:
    if not Path(path).is_dir():
        raise ValueError(f"{what}: expected the folder of a checkpoint, got {path}, which is none")
    try:
        return load()
    except Exception as error:  # a file of unknown origin fails in many ways
        raise ValueError(f"{what} {path}: {error}") from error


def _same_contract(who: str, expected: Spec, robot: str, got: Spec) -> None:
    if lines := expected.choose(horizon=0, n_obs_steps=0).differences(got):
        raise ValueError(f"{who} and the robot of {robot} do not match: " + "; ".join(lines))


def _expected(setup: Setup, versions: Mapping[str, str]) -> None:
    for kind in sorted(setup.expected):
        if (got := versions.get(kind, "none")) != setup.expected[kind]:
            raise ValueError(
                f"version {setup.number}: expected {kind} {setup.expected[kind]}, got {got}; configure it with the "
                "checkpoints that the online run began with"
            )


def _steerer(setup: Setup, policy: ChunkPolicy, critic: Critic | None, device: str) -> Steerer:
    """Without a critic the plain policy: one candidate, nothing to choose."""
    common = {"seed": setup.seed, "device": device, "precision": setup.precision}
    if critic is None:
        return Steerer(policy, execute=setup.execute or None, **common)
    return Steerer(
        policy,
        critic=critic,
        selector=_part(setup, "selector", "softmax_average"),
        gate=_part(setup, "gate", "always"),
        n=setup.n,
        execute=setup.execute or None,
        proposer=_part(setup, "proposer", "samples"),
        guide=_part(setup, "guide", ""),
        deadline=setup.deadline,
        exact=setup.exact,
        **common,
    )


def _part(setup: Setup, kind: str, default: str) -> Any:
    """A fresh one; None where nothing is asked for."""
    name, options = setup.parts.get(kind) or default, setup.options.get(kind, {})
    if not name:
        return None
    try:
        return components.load(f"{kind}s", name).Config(**options).build()
    except TypeError as error:  # an option that the part does not have
        raise ValueError(f"{kind} {name}: {error}") from error


def _follower(setup: Setup) -> Callable[[], ChunkFollower]:
    default = "splice" if setup.ahead else "plain"
    if setup.ahead and setup.parts.get("follower") == "plain":
        raise ValueError("follower: expected one that splices where the arm moves on while deciding, got plain")
    return lambda: _part(setup, "follower", default)


def _lag(setup: Setup, seconds: float, dt: float) -> int:
    """Steps at which decisions take effect: those that pass while one is made."""
    return setup.lag if setup.lag >= 0 else math.ceil(seconds / dt)
