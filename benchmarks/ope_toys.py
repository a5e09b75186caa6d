"""Two problems whose values can be written down, played by one policy and asked about another: logs for OPE.

Ladder: two rungs; a good chunk climbs (the second time: success), a bad one falls back. 4 decisions of k = 2 steps.
Drift: s <- 0.9 s + a, reward s; chunks are Gaussian around a constant, so that every density is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_value.ope.chunks import Target
from robot_value.ope.importance import gaussian_log_density
from robot_value.replay.replayed import LoggedEpisode, Replayed
from robot_value.types import ActionPart, Spec

K, DECISIONS = 2, 4  # control steps per chunk, chunks until the time is up
LADDER = Target(limit=K * DECISIONS)
DRIFT = Target("reward", gamma=0.95, limit=K * DECISIONS)
STD = 1.0  # of Drift's actions
SPEC = Spec(
    parts=(ActionPart("push", 0, 1, "position", "m", (-1.0,), (1.0,), reference="current"),),
    state_names=("x",),
    state_units=("m",),
    dt=0.1,
    horizon=K,
    n_obs_steps=1,
)


@dataclass(frozen=True)
class Toy:
    replayed: Replayed  # the log, and what the evaluated policy chose at its states
    log_ratio: np.ndarray  # float64[D]
    truth: float  # value of the evaluated policy


def ladder(
    episodes: int, mu: tuple[float, float] = (0.6, 0.6), pi: tuple[float, float] = (0.8, 0.8), seed: int = 0
) -> Toy:
    """mu, pi: the logging and the evaluated policy's chance of a good chunk (+1) on either rung."""
    rng, played = np.random.default_rng(seed), []
    for _ in range(episodes):
        rung, states, actions = 0, [], []
        while rung < 2 and len(states) < DECISIONS:
            good = rng.random() < mu[rung]
            states.append(float(rung))
            actions.append(1.0 if good else -1.0)
            rung = rung + 1 if good else 0
        played.append((states, actions, [0.0] * (len(states) - 1) + [float(rung == 2)], rung == 2))
    state, action = (np.concatenate([each[i] for each in played]) for i in (0, 1))
    chance = {name: np.array(p)[state.astype(int)] for name, p in {"mu": mu, "pi": pi}.items()}
    mu_good, pi_good = chance["mu"], chance["pi"]
    ratio = np.where(action > 0, pi_good / mu_good, (1 - pi_good) / (1 - mu_good))
    chosen = np.where(rng.random(len(state)) < pi_good, 1.0, -1.0)
    with np.errstate(divide="ignore"):
        return Toy(_replayed(played, state, action, chosen), np.log(ratio), ladder_value(pi))


# P(success with d decisions left): v_d(0) = p_0 v_{d-1}(1) + (1 - p_0) v_{d-1}(0),  v_d(1) = p_1 + (1 - p_1) v_{d-1}(0)
def ladder_value(p: tuple[float, float]) -> float:
    low = high = 0.0
    for _ in range(DECISIONS):
        low, high = p[0] * high + (1 - p[0]) * low, p[1] + (1 - p[1]) * low
    return low


def drift(episodes: int, mu: float = 0.0, pi: float = 0.2, seed: int = 0) -> Toy:
    """mu, pi: mean of the actions."""
    rng, played, means = np.random.default_rng(seed), [], []
    for _ in range(episodes):
        s, states, actions, rewards = rng.normal(), [], [], []
        for _ in range(DECISIONS):
            states.append(s)
            actions.append(rng.normal(mu, STD))
            s = 0.9 * s + actions[-1]
            rewards.append(s)
        played.append((states, actions, rewards, False))
    state, action = (np.concatenate([each[i] for each in played]) for i in (0, 1))
    means = (gaussian_log_density(action[:, None, None], np.float64(m), STD) for m in (pi, mu))
    replayed = _replayed(played, state, action, rng.normal(pi, STD, len(state)))
    return Toy(replayed, np.subtract(*means), drift_value(pi))


# E s_{t+1} = 0.9 E s_t + pi from 0, had at the end of every chunk
def drift_value(pi: float) -> float:
    s = total = 0.0
    for t in range(DECISIONS):
        s = 0.9 * s + pi
        total += DRIFT.gamma ** (K * t + K - 1) * s
    return total


def _replayed(played: list[tuple], state: np.ndarray, action: np.ndarray, chosen: np.ndarray) -> Replayed:
    """A chunk holds its action for K steps; its reward comes with the last of them."""
    counts = [len(states) for states, *_ in played]
    logged, chosen = (np.tile(a[:, None, None], (1, K, 1)).astype(np.float32) for a in (action, chosen))
    return Replayed(
        spec=SPEC,
        horizon=K,
        execute=K,
        gamma=1.0,
        episodes=tuple(_episode(i, *each) for i, each in enumerate(played)),
        episode=np.repeat(np.arange(len(played)), counts),
        step=np.concatenate([K * np.arange(n) for n in counts]),
        logged=logged,
        length=np.full(len(state), K),
        candidates=chosen[:, None],
        chosen=chosen,
        index=np.zeros(len(state), np.int64),
        reason=np.full(len(state), "base"),
        opinions={},
        columns={"state": state[:, None].astype(np.float32)},
    )


def _episode(number: int, states: list, actions: list, rewards: list, success: bool) -> LoggedEpisode:
    spread = np.zeros((len(states), K), np.float32)
    spread[:, -1] = rewards
    return LoggedEpisode(f"episode_{number:04d}", spread.size, success, success, False, "", spread.ravel())
