"""Which steps of another robot's data are worth as much here (Value-Guided Data Filtering, Xu et al. 2023).

    weight = 1 for the `share` of source steps with the highest log N(V(s'); mean_i V(s'_i), var_i V(s'_i)), 0 else

arXiv 2305.17625. s' is where the source's robot came, s'_i where ours would, say dynamics fitted to the target's data
(labels/dynamics.py), V a value of the target's data: dynamics may differ where it costs nothing. The paper ranks within
training batches; here all source steps are one batch. Target episodes keep weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..labels.dynamics import Dynamics
from ..labels.labels import Episodes, Labels
from ..labels.reservoir import Reservoir
from ..labels.small_network import FitConfig, Regression
from ..labels.state_value import critic_value
from ..types import Episode
from ..windows import returns_to_go


@dataclass(frozen=True)
class Config:
    target: tuple[str, ...] = ()  # values of `by` that mark the target's episodes; all others are the source's
    by: str = "task"  # task, or the key of the provenance that tells domains apart, e.g. robot or converted.identity
    share: float = 0.25  # xi, share of source steps that are kept; VGDF uses 0.25
    scope: int = 1  # steps from a start that must all fit, the worst one counts; a chunk critic wants its own
    critic: str = ""  # folder of a critic with a value network (iql) that sees one state and no image; none: fit V
    gamma: float = 0.99  # discount per step of the returns that V is fitted to
    members: int = 7  # networks of the dynamics; VGDF uses 7
    draws: int = 8  # next states drawn of each member
    rows: int = 100_000  # target steps held in memory while fitting, a uniform sample
    fit: FitConfig = FitConfig()  # of dynamics and V

    def build(self) -> ValueFilter:
        if not self.target:
            raise ValueError(f"target: expected values of {self.by!r} that mark the target's episodes, got none")
        if not 0 < self.share <= 1 or self.scope < 1:
            raise ValueError(f"expected 0 < share <= 1 and scope >= 1, got {self.share} and {self.scope}")
        return ValueFilter(self)


class ValueFilter:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, episodes: Episodes) -> None:
        c = self.config
        states, actions, after, returns = self._sample(e for _, e in episodes() if self.is_target(e))
        self.dynamics = Dynamics(states, actions, after, c.members, c.fit)
        spec = next(episodes())[1].spec
        self.value = critic_value(c.critic, spec) if c.critic else fitted_value(states, returns, c.fit)
        seen = Reservoir(c.rows, c.fit.seed)
        for _, episode in episodes():
            if not self.is_target(episode):
                starts = self.likelihood(episode)
                seen.add(starts[np.isfinite(starts)])
        if not seen.seen:
            raise ValueError(f"value_filter: expected steps of a source beside {c.target}, got none; see --labeler.by")
        self.least = float(np.quantile(seen.sample()[0], 1 - c.share))

    def label(self, name: str, episode: Episode) -> Labels:
        if self.is_target(episode):
            return Labels(about={"domain": "target"})
        starts = self.likelihood(episode)
        weights = (starts >= self.least).astype(np.float32)
        return Labels(weights=weights, about={"domain": "source", "kept": float(weights.mean())})

    def is_target(self, episode: Episode) -> bool:
        return domain(episode, self.config.by) in self.config.target

    def likelihood(self, episode: Episode) -> np.ndarray:
        """float64[T] of starts; -inf where no window can begin.

        Where nobody saw what the last action led to, the step before speaks for it, if that action ended the task.
        """
        states, actions, after = transitions(episode)
        scores = np.full(len(episode), -np.inf)
        if n := len(actions):
            ours = self.dynamics.sample(states, actions, self.config.draws, self.config.fit.seed)  # [i, n, S]
            values = self.value(ours.reshape(-1, states.shape[1])).reshape(ours.shape[:2]).astype(np.float64)
            scores[:n] = log_normal(self.value(after), values.mean(0), values.std(0))
            scores[n:] = scores[n - 1]
        starts = worst_of_next(scores, self.config.scope)
        if not (episode.final_observed or episode.terminated):
            starts[-1] = -np.inf
        return starts

    def _sample(self, episodes: Iterator[Episode]) -> list[np.ndarray]:
        """states [n, S], actions [n, A], after [n, S], returns [n] of target steps."""
        known = Reservoir(self.config.rows, self.config.fit.seed)
        for episode in episodes:
            states, actions, after = transitions(episode)
            known.add(states, actions, after, returns_to_go(episode.rewards, self.config.gamma)[: len(actions)])
        if not known.seen:
            raise ValueError(
                f"value_filter: expected steps of episodes whose {self.config.by} is in {self.config.target}, got none"
            )
        return known.sample()


def fitted_value(states: np.ndarray, returns: np.ndarray, config: FitConfig) -> Callable[[np.ndarray], np.ndarray]:
    """V(s) by Monte-Carlo returns of the target's data."""
    if np.ptp(returns) == 0:
        raise ValueError(
            f"value_filter: expected returns of the target that differ, got only {returns[0]:g}; name a "
            "--labeler.critic, or label rewards first and name them with --base"
        )
    return Regression(states, returns, config, "value").predict


def transitions(episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """states [n, S], actions [n, A], after [n, S]: every step whose result was seen."""
    n = len(episode.states) - 1
    return episode.states[:n], episode.actions[:n], episode.states[1:]


def domain(episode: Episode, by: str) -> str:
    """The task, or what stands under a dotted key of the provenance; "" where nothing does."""
    found = episode.task if by == "task" else episode.provenance
    for key in () if by == "task" else by.split("."):
        found = found.get(key, "") if isinstance(found, dict) else ""
    return str(found)


def log_normal(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Up to a constant."""
    std = np.maximum(std, 1e-6)
    return -(((x - mean) / std) ** 2) / 2 - np.log(std)


def worst_of_next(scores: np.ndarray, scope: int) -> np.ndarray:
    """scores [T] -> [T], the least of the next `scope` ones that the episode has."""
    padded = np.concatenate([scores, np.full(scope - 1, np.inf)])
    return np.lib.stride_tricks.sliding_window_view(padded, scope).min(1)
