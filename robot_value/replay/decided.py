"""What was decided when episodes were recorded (by `evaluate`, `collect` or a robot) as a Replayed: no model is asked.

The executed chunk has a value where it is one of the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..types import Decision, Episode, Spec
from .logged_robot import Log, Playing
from .replayed import LoggedEpisode, Opinion, Replayed


@dataclass(frozen=True)
class Kept:
    """A Log of episodes in memory, e.g. those of a Keeper."""

    episodes: Mapping[str, Episode]

    @property
    def spec(self) -> Spec:
        return next(iter(self.episodes.values())).spec

    def names(self) -> list[str]:
        return list(self.episodes)

    def read(self, name: str) -> Episode:
        return self.episodes[name]


def decided(log: Log, gamma: float = 0.98) -> Replayed:
    """Episodes without decisions are refused; where candidates are fewer than elsewhere, NaN fills up."""
    read = {name: log.read(name) for name in log.names()}
    if without := [name for name, episode in read.items() if not episode.decisions]:
        raise ValueError(f"expected decisions in every episode, got none in {without[:3]}; replay them with a policy")
    moments = [(e, episode, d) for e, episode in enumerate(read.values()) for d in _made(episode)]
    horizon = moments[0][2].chunk.shape[1]
    n = max(1, *(decision.candidates.shape[1] for _, _, decision in moments))
    executed = [Playing(episode, e, e).chunk(int(d.start_step[0]), horizon) for e, episode, d in moments]
    decisions = [decision for _, _, decision in moments]
    value, spread = (_padded([getattr(d, each)[0] for d in decisions], (n,)) for each in ("value", "spread"))
    index = np.array([int(d.index[0]) for d in decisions])
    of_chosen = [np.where(index < 0, np.nan, each[np.arange(len(index)), index]) for each in (value, spread)]
    opinion = Opinion(value, spread, of_chosen[0], of_chosen[1], of_chosen[0])
    return Replayed(
        spec=log.spec,
        horizon=horizon,
        execute=max(int(d.execute[0]) for d in decisions),
        gamma=gamma,
        episodes=tuple(_facts(name, episode) for name, episode in read.items()),
        episode=np.array([e for e, _, _ in moments]),
        step=np.array([int(d.start_step[0]) for d in decisions]),
        logged=np.stack([chunk for chunk, _ in executed]),
        length=np.array([length for _, length in executed]),
        candidates=_padded([d.candidates[0] for d in decisions], (n, *decisions[0].chunk.shape[1:])),
        chosen=np.concatenate([d.chunk for d in decisions]),
        index=index,
        reason=np.array([d.reason[0] for d in decisions]),
        opinions={"main": opinion} if np.isfinite(value).any() else {},
    )


def _made(episode: Episode) -> list[Decision]:
    """Decisions that took effect before the episode ended."""
    return [decision for decision in episode.decisions if int(decision.start_step[0]) < len(episode)]


def _padded(rows: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """float32[D, *shape], NaN where a row has fewer candidates."""
    full = np.full((len(rows), *shape), np.nan, np.float32)
    for target, row in zip(full, rows, strict=True):
        target[: len(row)] = row
    return full


def _facts(name: str, episode: Episode) -> LoggedEpisode:
    return LoggedEpisode(
        name=name,
        steps=len(episode),
        success=episode.success,
        terminated=episode.terminated,
        unstable=bool(episode.provenance.get("unstable", False)),
        task=episode.task,
        rewards=episode.rewards,
    )
