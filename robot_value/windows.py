"""Where windows may start, and what they see past an episode's end: the bookkeeping below ChunkSampler, numpy only.

Steps are padded per episode by repeating the last action (reward 0), so that one strided view holds every window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .episodes.cache import Cache
from .normalize import Statistics


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


@dataclass(frozen=True)
class Outcomes:
    """Per chosen episode: what makes it good or bad."""

    rewards: list[np.ndarray]  # E times float32[T]
    terminated: np.ndarray  # bool[E]
    success: np.ndarray  # float32[E]


def make_windows(
    cache: Cache,
    length: int,  # L, steps a window looks ahead
    gamma: float,
    episodes: Sequence[int] | np.ndarray | None = None,
    success_only: bool = False,
    reward_shuffle_seed: int | None = None,
    endless: bool = False,  # take every recorded termination for a time-out
) -> Windows:
    """Raises ValueError where nothing is left to sample."""
    chosen = _chosen(cache, episodes, success_only)
    outcomes = _outcomes(cache, chosen)
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
    )


def shuffled(outcomes: Outcomes, generator: np.random.Generator) -> Outcomes:
    """The control "shuffled critic": rewards permuted over all steps, success over episodes, and nothing terminates.

    The rewards keep their sum, but nothing about a state or an action says when one comes. Permuting whole outcomes
    would not do: a success ends its episode early, so a critic that is rewarded at the end of arbitrary episodes still
    learns that a short episode is a good one (on Lift it steered to 89 % success, almost as well as the true critic).
    """
    steps = np.cumsum([len(rewards) for rewards in outcomes.rewards])
    mixed = generator.permutation(np.concatenate(outcomes.rewards))
    return Outcomes(
        rewards=np.split(mixed, steps[:-1]),
        terminated=np.zeros_like(outcomes.terminated),
        success=generator.permutation(outcomes.success),
    )


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """float32[T]: G_t = r_t + gamma G_{t+1}, G_T = 0."""
    total, result = 0.0, []
    for reward in rewards[::-1].tolist():
        total = reward + gamma * total
        result.append(total)
    return np.array(result[::-1], np.float32)


def return_statistics(cache: Cache, gamma: float) -> Statistics:
    """Of the recorded discounted returns, with `low` and `high` widened to what any policy's value can be.

    A reward that comes with the episode's end is had once; any other could be had at every step, so it counts
    1 / (1 - gamma) times. Heads with a fixed support of returns (C51, HL-Gauss) take it from here.
    """
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


def _outcomes(cache: Cache, chosen: np.ndarray) -> Outcomes:
    starts = cache.step_start
    rewards = [np.array(cache.reward[starts[e] : starts[e] + cache.steps[e]]) for e in chosen]
    return Outcomes(rewards, cache.terminated[chosen], cache.success[chosen])
