"""Fitted Q evaluation on chunks (Le, Voloshin & Yue 2019, arXiv 1903.08738), bootstrapped over episodes.

    Q_i(s_t, a_{t:t+k}) <- reward + discount * Qbar_i(s_{t+k}, a'),   a' ~ pi(. | s_{t+k})

Member i of the ensemble sees its own resample of the episodes, from its first batch to its initial states, so that the
members' values are bootstrap draws of the estimate (Hao et al. 2021, arXiv 2102.03607) and one training gives them all.
a' is what the evaluated steerer chose in the replay: sampled once per state. Where the log has nothing like it, Q is
an extrapolation and no interval can know: see support.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..replay.replayed import Replayed
from ..statistics import Interval
from .chunks import Chunks


@dataclass(frozen=True)
class Config:
    members: int = 10  # networks, each on its own resample of the episodes
    hidden: tuple[int, ...] = (128, 128)  # widths of the hidden layers; logs of some hundred episodes need no more
    steps: int = 1500  # gradient steps
    batch_size: int = 256  # decisions
    lr: float = 1e-3  # Adam learning rate
    weight_decay: float = 1e-3  # of AdamW
    tau: float = 0.02  # step of the averaged networks; steps * tau >> decisions per episode
    seed: int = 0  # of weights, resamples and batches

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ValueError(f"members: expected at least 2, whose spread is the interval, got {self.members}")


@dataclass(frozen=True)
class Fitted:
    """Shape letters: M members, D decisions, E episodes."""

    q: np.ndarray  # float64[M, D], of the chunk that the log executed
    v: np.ndarray  # float64[M, D], of the chunk that the evaluated policy chose
    drawn: np.ndarray  # int64[M, E], how often each member saw each episode
    values: np.ndarray  # float64[M], mean of v over the initial states of the member's own resample
    chunks: Chunks

    # mean +- t_{M-1} std sqrt(1 + 1 / M)
    @property
    def interval(self) -> Interval:
        """Covers the sampling of episodes and the training's randomness; not what the log lacks."""
        from scipy import stats

        m, mean = len(self.values), float(self.values.mean())
        half = float(stats.t.ppf(0.975, m - 1) * self.values.std(ddof=1)) * math.sqrt(1 + 1 / m)
        low, high = self.chunks.bounds
        return Interval(mean, max(mean - half, low), min(mean + half, high))

    def unseen(self) -> tuple[np.ndarray, np.ndarray]:
        """q and v float64[D] of the members that never saw the row's episode (all, where every member did)."""
        mask = self.drawn[:, self.chunks.episode] == 0
        weight = np.where(mask.any(0), mask, True)
        return tuple((weight * each).sum(0) / weight.sum(0) for each in (self.q, self.v))


def features(replayed: Replayed, target_limit: int) -> np.ndarray:
    """float32[D, F]: what the policy saw, standardized, and the share of the time limit that is over."""
    columns = replayed.columns
    if not {"features", "state"} & columns.keys():
        raise ValueError("replayed.columns: expected features or state, got neither; replay with ope.estimate.Seen")
    seen = _standard(np.asarray(columns.get("features", columns.get("state"))).reshape(len(replayed), -1))
    if not target_limit:
        return seen
    return np.concatenate([seen, (2 * replayed.step[:, None] / target_limit - 1).astype(np.float32)], 1)


def fit(replayed: Replayed, chunks: Chunks, config: Config = Config()) -> Fitted:
    """Deterministic in config.seed."""
    import torch

    from ..networks.ema import frozen_copy, lerp_
    from ..networks.ensemble import EnsembleMLP
    from ..networks.seeding import seeded_weights

    rng, usable = np.random.default_rng(config.seed), np.flatnonzero(chunks.usable)
    drawn = resamples(chunks, config.members, rng)
    logged, chosen = (torch.from_numpy(each) for each in inputs(replayed, chunks))
    reward, discount = (torch.from_numpy(each.astype(np.float32)) for each in (chunks.reward, chunks.discount))
    weight = torch.from_numpy(drawn[:, chunks.episode].astype(np.float32))  # [M, D]
    following, (low, high) = torch.from_numpy(np.maximum(chunks.following, 0)), chunks.bounds
    with seeded_weights(config.seed):
        net = EnsembleMLP(config.members, logged.shape[1], config.hidden)
    average = frozen_copy(net)
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=config.weight_decay, fused=True)
    for _ in range(config.steps):
        rows = torch.from_numpy(rng.choice(usable, config.batch_size))
        with torch.no_grad():
            following_value = average(chosen[following[rows]])[..., 0].clamp(low, high)  # [M, B]
        error = net(logged[rows])[..., 0] - reward[rows] - discount[rows] * following_value
        optimizer.zero_grad(set_to_none=True)
        (weight[:, rows] * error.square()).mean(1).sum().backward()  # members do not touch each other
        optimizer.step()
        lerp_(average, net, config.tau)
    with torch.no_grad():
        q, v = (average(each)[..., 0].clamp(low, high).double().numpy() for each in (logged, chosen))
    return Fitted(q, v, drawn, (drawn * v[:, chunks.first]).sum(1) / drawn.sum(1), chunks)


def inputs(replayed: Replayed, chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """float32[D, I] each: the state beside the logged and beside the chosen chunk's k steps, in the log's spread."""
    seen, k = features(replayed, chunks.target.limit), replayed.execute
    mean, std = replayed.logged[:, :k].mean((0, 1)), replayed.logged[:, :k].std((0, 1)).clip(1e-3)
    both = ((chunk[:, :k] - mean) / std for chunk in (replayed.logged, replayed.chosen))
    return tuple(np.concatenate([seen, each.reshape(len(seen), -1)], 1).astype(np.float32) for each in both)


def resamples(chunks: Chunks, members: int, rng: np.random.Generator) -> np.ndarray:
    """int64[M, E]: bootstrap draws of the episodes in which anything is usable."""
    known = np.bincount(chunks.episode[chunks.usable], minlength=len(chunks.first)) > 0
    return rng.multinomial(known.sum(), known / known.sum(), members)


def _standard(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return np.clip((x - x.mean(0)) / x.std(0).clip(1e-6), -10, 10)
