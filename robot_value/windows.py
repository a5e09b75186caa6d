"""Where windows may start, and what they see past an episode's end: the bookkeeping below ChunkSampler, numpy only.

Steps are padded per episode by repeating the last action (reward 0), so that one strided view holds every window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .episodes.cache import Cache
from .normalize import Statistics

if TYPE_CHECKING:
    from .labels.cached import CacheLabels


@dataclass(frozen=True)
class Windows:
    """N legal starts over E chosen episodes, and their P padded steps."""

    episode: np.ndarray  # int32[N], which of the E episodes; its starts follow each other in time
    steps: np.ndarray  # int64[E], usable steps
    first_frame: np.ndarray  # int64[E], row in cache.state
    last_frame: np.ndarray  # int64[E], row in cache.state of the last observation there is
    first_step: np.ndarray  # int64[E], row in cache.action
    first_padded: np.ndarray  # int64[E], row in the padded arrays
    terminated: np.ndarray  # bool[E]
    success: np.ndarray  # float32[E]
    task: np.ndarray  # int64[E]
    action: np.ndarray  # float32[P, A]
    reward: np.ndarray  # float32[P]
    mc_return: np.ndarray  # float32[P]
    weight: np.ndarray | None  # float64[N], relative chance of each start; None: all alike


@dataclass(frozen=True)
class Outcomes:
    """Per chosen episode: what makes it good or bad."""

    rewards: list[np.ndarray]  # E times float32[T]
    terminated: np.ndarray  # bool[E]
    success: np.ndarray  # float32[E]
    weights: list[np.ndarray] | None = None  # E times float32[T], of starts; None: all alike
    returns: list[np.ndarray] | None = None  # E times float32[T], NaN where they follow from the rewards; None: do


def make_windows(
    cache: Cache,
    length: int,  # L, steps a window looks ahead
    gamma: float,
    episodes: Sequence[int] | np.ndarray | None = None,
    success_only: bool = False,
    reward_shuffle_seed: int | None = None,
    endless: bool = False,  # take every recorded termination for a time-out
    labels: CacheLabels | None = None,  # in place of the recorded rewards and outcomes
) -> Windows:
    """Raises ValueError where nothing is left to sample. `success_only` goes by the labels' successes, if there are."""
    cache = labels.on(cache) if labels else cache
    chosen = _chosen(cache, episodes, success_only)
    outcomes = _outcomes(cache, chosen, labels)
    if reward_shuffle_seed is not None:
        outcomes = shuffled(outcomes, np.random.default_rng(reward_shuffle_seed))
    if endless:
        outcomes = replace(outcomes, terminated=np.zeros_like(outcomes.terminated))
    frames, total = cache.frames[chosen], cache.steps[chosen]
    unknown_end = (frames == total) & ~outcomes.terminated  # what the last action led to was never seen
    steps = total - unknown_end
    padded = np.where(steps > 0, steps + length - 1, 0)
    action = np.zeros((padded.sum(), cache.action.shape[1]), np.float32)
    reward, mc_return = np.zeros(len(action), np.float32), np.zeros(len(action), np.float32)
    first_padded = np.cumsum(padded) - padded
    first_step = cache.step_start[chosen]
    for e in np.flatnonzero(steps):
        rows = slice(first_padded[e], first_padded[e] + steps[e])
        action[rows] = cache.action[first_step[e] : first_step[e] + steps[e]]
        action[rows.stop : rows.stop + length - 1] = action[rows.stop - 1]
        reward[rows] = outcomes.rewards[e][: steps[e]]
        mc_return[rows] = returns_to_go(reward[rows], gamma)
        if outcomes.returns:
            given = outcomes.returns[e][: steps[e]]
            mc_return[rows] = np.where(np.isnan(given), mc_return[rows], given)
    if not steps.sum():
        raise ValueError(f"expected at least one usable step in {len(chosen)} chosen episodes, got none")
    first_frame = cache.frame_start[chosen]
    return Windows(
        episode=np.repeat(np.arange(len(chosen), dtype=np.int32), steps),
        steps=steps,
        first_frame=first_frame,
        last_frame=first_frame + frames - 1,
        first_step=first_step,
        first_padded=first_padded,
        terminated=outcomes.terminated,
        success=outcomes.success,
        task=cache.task[chosen],
        action=action,
        reward=reward,
        mc_return=mc_return,
        weight=_start_weights(outcomes.weights, steps) if outcomes.weights else None,
    )


def shuffled(outcomes: Outcomes, generator: np.random.Generator) -> Outcomes:
    """The control "shuffled critic": rewards permuted over all steps, success over episodes, and nothing terminates.

    The rewards keep their sum, but nothing about a state or an action says when one comes. Permuting whole outcomes
    would not do: a success ends its episode early, so a critic that is rewarded at the end of arbitrary episodes still
    learns that a short episode is a good one (on Lift it steered to 89 % success, almost as well as the true critic).
    Labelled weights and returns are permuted over all steps too: starts that are drawn more often must not be better.
    """
    steps = np.cumsum([len(rewards) for rewards in outcomes.rewards])

    def mixed(rows: list[np.ndarray] | None) -> list[np.ndarray] | None:
        return rows and np.split(generator.permutation(np.concatenate(rows)), steps[:-1])

    return Outcomes(
        rewards=mixed(outcomes.rewards),
        terminated=np.zeros_like(outcomes.terminated),
        success=generator.permutation(outcomes.success),
        weights=mixed(outcomes.weights),
        returns=mixed(outcomes.returns),
    )


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """float32[T]: G_t = r_t + gamma G_{t+1}, G_T = 0."""
    total, result = 0.0, []
    for reward in rewards[::-1].tolist():
        total = reward + gamma * total
        result.append(total)
    return np.array(result[::-1], np.float32)


def return_statistics(cache: Cache, gamma: float, labels: CacheLabels | None = None) -> Statistics:
    """Of the recorded or labelled discounted returns, `low` and `high` widened to what any policy's value can be.

    A reward that comes with the episode's end is had once; any other could be had at every step, so it counts
    1 / (1 - gamma) times. Heads with a fixed support of returns (C51, HL-Gauss) take it from here.
    """
    cache = labels.on(cache) if labels else cache
    recorded = [
        returns_to_go(np.asarray(cache.reward[start : start + steps]), gamma)
        for start, steps in zip(cache.step_start, cache.steps, strict=True)
    ]
    last = np.zeros(len(cache.reward), bool)
    last[(cache.step_start + cache.steps - 1)[cache.terminated & (cache.steps > 0)]] = True
    repeated = np.asarray(cache.reward)[~last]
    forever = 1 / (1 - gamma) if gamma < 1 else float(cache.steps.max())
    returns = Statistics.fit((each[:, None] for each in recorded), "return")
    low = min(float(returns.low[0]), forever * float(repeated.min(initial=0.0)))
    high = max(float(returns.high[0]), forever * float(repeated.max(initial=0.0)))
    if labels and labels.mc_return is not None:
        given = np.where(np.isnan(labels.mc_return), np.concatenate(recorded), labels.mc_return)
        returns = Statistics.fit(given[:, None], "return")
        low, high = min(low, float(given.min())), max(high, float(given.max()))
    return replace(returns, low=np.array([low]), high=np.array([high]))


def _chosen(cache: Cache, episodes: Sequence[int] | np.ndarray | None, success_only: bool) -> np.ndarray:
    """int64[E] numbers of episodes in the cache."""
    chosen = np.arange(len(cache)) if episodes is None else np.asarray(episodes, np.int64)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(cache)):
        raise ValueError(f"episodes: expected numbers in [0, {len(cache)}), got {chosen.min()} to {chosen.max()}")
    if success_only:
        chosen = chosen[cache.success[chosen] == 1]
    if not len(chosen):
        raise ValueError(f"no episodes to sample from: {len(cache)} in the cache, success_only={success_only}")
    return chosen


def _outcomes(cache: Cache, chosen: np.ndarray, labels: CacheLabels | None) -> Outcomes:
    """cache: as labelled."""
    starts = cache.step_start[chosen]
    stops = starts + cache.steps[chosen]

    def rows(flat: np.ndarray | None) -> list[np.ndarray] | None:
        return None if flat is None else [np.array(flat[a:b]) for a, b in zip(starts, stops, strict=True)]

    weights, returns = (rows(labels.weight), rows(labels.mc_return)) if labels else (None, None)
    return Outcomes(rows(cache.reward), cache.terminated[chosen], cache.success[chosen], weights, returns)


def _start_weights(weights: list[np.ndarray], steps: np.ndarray) -> np.ndarray:
    """float64[N], of the legal starts: the first steps[e] of each episode."""
    legal = np.concatenate([each[:n] for each, n in zip(weights, steps, strict=True)]).astype(np.float64)
    if not legal.any():
        raise ValueError(
            f"labels: expected a start with a weight above 0, got 0 for all {len(legal)} in {len(weights)} chosen "
            "episodes; a filter that nothing passes?"
        )
    return legal
