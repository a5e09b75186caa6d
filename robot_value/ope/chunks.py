"""A Replayed as a decision process over chunks: what k steps of the log earned, and which decision came after them.

    Q(s_t, a_{t:t+k}) = reward + discount * V(s_{t+k}),   reward = sum_{i<k} gamma^i r_{t+i},   discount = gamma^k'

A task with a time limit is a finite horizon: "success within `limit` steps" has gamma 1, a time-out or a failure that
somebody stopped is worth 0, and time is part of the state. Without a limit a time-out hides the future, and what ran
into it teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..replay.replayed import LoggedEpisode, Replayed


@dataclass(frozen=True)
class Target:
    """What is estimated: the expected discounted sum of the outcome over an episode."""

    outcome: str = "success"  # success | reward: 1 at the end of a success, or the recorded rewards
    gamma: float = 1.0  # discount per control step; 1 makes a value of successes a success rate
    limit: int = 0  # control steps after which an episode is over; 0: time-outs are cuts, not ends

    def __post_init__(self) -> None:
        if self.outcome not in ("success", "reward") or not 0 < self.gamma <= 1 or self.limit < 0:
            raise ValueError(f"target: expected outcome success or reward, 0 < gamma <= 1 and limit >= 0, got {self}")


@dataclass(frozen=True)
class Chunks:
    """D decisions of E episodes, rows as in the Replayed."""

    target: Target
    episode: np.ndarray  # int64[D], number in 0..E-1
    step: np.ndarray  # int64[D], control step
    reward: np.ndarray  # float64[D], of the next k steps, discounted from this step; NaN where nobody knows
    discount: np.ndarray  # float64[D], of the next decision's value; 0 where the episode is over
    following: np.ndarray  # int64[D], row of the decision k steps later; -1 where there is none
    first: np.ndarray  # int64[E], row of each episode's first decision
    returns: np.ndarray  # float64[E], of the whole episode; NaN where nobody knows

    @property
    def usable(self) -> np.ndarray:
        """bool[D]: the chunk's reward is known, and so is what came after it."""
        return np.isfinite(self.reward) & ((self.discount == 0) | (self.following >= 0))

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest value there can be: of a success 0 and 1, of rewards what whole episodes returned."""
        if self.target.outcome == "success":
            return 0.0, 1.0
        known = self.returns[np.isfinite(self.returns)]
        if not len(known):
            return -np.inf, np.inf
        return min(0.0, float(known.min())), max(0.0, float(known.max()))

    @property
    def paths(self) -> np.ndarray:
        """int64[E, L]: each episode's decisions one chunk after another from its first on, then -1."""
        columns = [self.first]
        while (columns[-1] >= 0).any():
            columns.append(np.where(columns[-1] >= 0, self.following[columns[-1]], -1))
        return np.stack(columns[:-1], 1)


def chunks(replayed: Replayed, target: Target) -> Chunks:
    """Raises ValueError where no chunk has a known sequel, or an episode's first decision is missing."""
    k, gamma, limit = replayed.execute, target.gamma, target.limit
    lengths = np.array([min(episode.steps, limit or episode.steps) for episode in replayed.episodes])
    over = np.array([_over(episode, target) for episode in replayed.episodes])
    number, start = replayed.episode, replayed.step
    end = np.minimum(start + k, lengths[number])
    taken = end - start  # k'; below 1 past the limit
    totals = [_to_go(_outcomes(e, target)[:n], gamma) for e, n in zip(replayed.episodes, lengths, strict=True)]
    to_go, offset = np.concatenate(totals), np.cumsum(lengths + 1) - lengths - 1  # float64[sum of T + 1], int64[E]
    before, after = (to_go[offset[number] + np.minimum(at, lengths[number])] for at in (start, end))
    reward = np.where(taken > 0, before - gamma**taken * after, np.nan)
    ended = end == lengths[number]
    found = Chunks(
        target=target,
        episode=number,
        step=start,
        reward=reward,
        discount=np.where(ended & over[number], 0.0, gamma**taken),
        following=np.where(ended, -1, _rows(number, start, end)),
        first=_rows(number, start, np.zeros(len(lengths), np.int64), np.arange(len(lengths))),
        returns=np.where(over, to_go[offset], np.nan),
    )
    if (found.first < 0).any() or not found.usable.any():
        raise ValueError(
            f"expected a decision at step 0 of every episode and others {k} steps after one another, got "
            f"{int((found.first < 0).sum())} episodes without the first and {int(found.usable.sum())} usable chunks; "
            "replay with every=k or a part of it, and give target.limit where episodes end by a time limit"
        )
    return found


def _over(episode: LoggedEpisode, target: Target) -> bool:
    """Whether nothing more could have been had. With a time limit a recorded verdict ends the task, too."""
    judged = target.outcome == "success" and episode.success is not None
    return episode.terminated or bool(target.limit and (judged or episode.steps >= target.limit))


def _outcomes(episode: LoggedEpisode, target: Target) -> np.ndarray:
    """float64[T]; NaN where nobody knows, or where the simulator broke."""
    if episode.unstable:
        return np.full(episode.steps, np.nan)
    if target.outcome == "reward":
        return episode.rewards.astype(np.float64)
    last = np.zeros(episode.steps)
    last[-1] = np.nan if episode.success is None else float(episode.success)
    return last


def _to_go(outcomes: np.ndarray, gamma: float) -> np.ndarray:
    """float64[T + 1], G_t = r_t + gamma G_{t+1}; 0 at the end."""
    found = np.zeros(len(outcomes) + 1)
    for t in range(len(outcomes) - 1, -1, -1):
        found[t] = outcomes[t] + gamma * found[t + 1]
    return found


def _rows(number: np.ndarray, start: np.ndarray, wanted: np.ndarray, episode: np.ndarray | None = None) -> np.ndarray:
    """int64[...], the row of the decision at step `wanted` of the same (or that) episode; -1 where there is none."""
    span = int(max(start.max(), wanted.max())) + 1
    keys, asked = number * span + start, (number if episode is None else episode) * span + wanted
    row = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[row] == asked, row, -1)
