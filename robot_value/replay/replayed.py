"""What one pass over a log leaves behind: a row per decision, from which every diagnosis is computed without a model.

Shape letters: D decisions, E episodes, N candidates, H chunk steps, A action dims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from ..types import Spec


@dataclass(frozen=True)
class LoggedEpisode:
    """What the log says about an episode."""

    name: str
    steps: int  # T
    success: bool | None
    terminated: bool
    unstable: bool
    task: str
    rewards: np.ndarray  # float32[T]

    def returns(self, gamma: float) -> np.ndarray:
        """float64[T], discounted sum of the rewards from every step on, as far as they were seen."""
        total, found, rewards = 0.0, np.zeros(self.steps), self.rewards.astype(float)
        for t in range(self.steps - 1, -1, -1):
            total = found[t] = rewards[t] + gamma * total
        return found


@dataclass(frozen=True)
class Opinion:
    """What one critic said about every decision."""

    value: np.ndarray  # float32[D, N], of the candidates; NaN where not scored
    spread: np.ndarray  # float32[D, N], std over the ensemble
    logged_value: np.ndarray  # float32[D], of the chunk that was really executed
    logged_spread: np.ndarray  # float32[D]
    chosen_value: np.ndarray  # float32[D], of the chunk that steering chose


@dataclass(frozen=True)
class Replayed:
    spec: Spec  # of the log, n_obs_steps chosen
    horizon: int  # H
    execute: int  # k, steps that a critic judges
    gamma: float  # discount per control step, of the critics
    episodes: tuple[LoggedEpisode, ...]  # E, in the order they were played
    episode: np.ndarray  # int64[D], number in `episodes`; rows of an episode are together, in time
    step: np.ndarray  # int64[D], t, control step of the decision
    logged: np.ndarray  # float32[D, H, A], executed from there on, the last action repeated past the end
    length: np.ndarray  # int64[D], steps of `logged` that were really executed
    candidates: np.ndarray  # float32[D, N, H, A]
    chosen: np.ndarray  # float32[D, H, A], what steering chose
    index: np.ndarray  # int64[D], the candidate it is; -1: a new one
    reason: np.ndarray  # str[D]
    opinions: Mapping[str, Opinion]  # critic -> its opinion; the first one steered
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # what onlookers added, [D, ...] each
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> s of the whole pass; "total" is wall time
    unequal: tuple[str, ...] = ()  # decisions that differ from the logged ones, a line each
    compared: int = 0  # decisions for which there was a logged one

    def __len__(self) -> int:
        return len(self.step)

    @property
    def main(self) -> str | None:
        """The critic that steered; None where there is none."""
        return next(iter(self.opinions), None)

    @property
    def success(self) -> np.ndarray:
        """float64[E]: 1, 0, NaN where nobody knows."""
        return np.array([np.nan if e.success is None else float(e.success) for e in self.episodes])

    @property
    def returns(self) -> np.ndarray:
        """float64[D], realised discounted return from each decision on."""
        each = [episode.returns(self.gamma) for episode in self.episodes]
        return np.array([each[e][t] for e, t in zip(self.episode, self.step, strict=True)])

    @property
    def span(self) -> np.ndarray:
        """float64[A], high - low of every action dim: what distances are measured in."""
        return (self.spec.high - self.spec.low).astype(np.float64)

    def rows(self, episode: int) -> slice:
        """Its decisions."""
        return slice(*np.searchsorted(self.episode, [episode, episode + 1]))


TABLE = ("step", "logged", "length", "candidates", "chosen", "index", "reason")  # arrays of a row per decision


def join(parts: Sequence[Replayed]) -> Replayed:
    """One pass that was made in parts, other episodes in each."""
    first, offsets = parts[0], np.cumsum([0, *(len(part.episodes) for part in parts)])
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part.seconds)
    return replace(
        first,
        episodes=tuple(episode for part in parts for episode in part.episodes),
        episode=np.concatenate([part.episode + offset for part, offset in zip(parts, offsets, strict=False)]),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in TABLE},
        opinions={name: _joined([part.opinions[name] for part in parts]) for name in first.opinions},
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        seconds=dict(seconds),
        unequal=tuple(line for part in parts for line in part.unequal),
        compared=sum(part.compared for part in parts),
    )


def _joined(opinions: Sequence[Opinion]) -> Opinion:
    names = [item.name for item in fields(Opinion)]
    return Opinion(**{name: np.concatenate([getattr(each, name) for each in opinions]) for name in names})
