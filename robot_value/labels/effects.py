"""What labels do to a dataset, in numbers: returns and outcomes before and after, and how even the weights are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..episodes.store import EpisodeStore
from ..types import Episode
from .labels import Labels
from .store import LabelStore


@dataclass(frozen=True)
class Effects:
    """Columns of [E, 2]: as recorded, as labelled. Over the labelled episodes that the store still has."""

    returns: np.ndarray  # float64[E, 2], sum of rewards
    terminated: np.ndarray  # bool[E, 2]
    success: np.ndarray  # float64[E, 2], NaN where nobody knows
    weights: np.ndarray  # float64[sum of steps]
    found: dict[str, np.ndarray]  # number that the labeler found -> float64[up to E]

    @property
    def effective(self) -> float:
        """How many equally likely starts would be as good: (sum w)^2 / sum w^2 (Kish 1965)."""
        return float(self.weights.sum() ** 2 / max((self.weights**2).sum(), np.finfo(float).tiny))

    def to_text(self) -> str:
        n, starts = len(self.returns), len(self.weights)
        terminated, known = self.terminated.sum(0), np.isfinite(self.success).sum(0)
        succeeded = (self.success == 1).sum(0)
        lines = [
            f"  {n} episodes, {starts:,} steps",
            f"  return       {_spread(self.returns[:, 0])}  ->  {_spread(self.returns[:, 1])}",
            f"  terminated   {terminated[0]}  ->  {terminated[1]} of {n}",
            f"  success      {succeeded[0]} of {known[0]} known  ->  {succeeded[1]} of {known[1]} known",
            f"  weights      {self.effective:,.0f} effective of {starts:,} starts "
            f"({(self.weights == 0).sum():,} are never drawn)",
        ]
        return "\n".join([*lines, *(f"  {key:<12} {_spread(values)}" for key, values in self.found.items())])


def measure(store: EpisodeStore, name: str) -> Effects:
    """One pass over the low-dimensional data of a labelled store."""
    labels, known = LabelStore.open(store, name), set(store.names())
    rows = [
        _row(store.read(each, images=False, decisions=False), labels.read(each))
        for each in labels.episodes()
        if each in known
    ]
    returns, terminated, success, weights, found = zip(*rows, strict=True)
    keys = dict.fromkeys(key for each in found for key in each)
    return Effects(
        np.array(returns, np.float64),
        np.array(terminated, bool),
        np.array(success, np.float64),
        np.concatenate(weights),
        {key: np.array([each[key] for each in found if key in each], np.float64) for key in keys},
    )


def _row(recorded: Episode, labels: Labels) -> tuple:
    """Returns, terminations, successes (each before and after), weights float64[T], numbers found."""
    pair = (recorded, labels.on(recorded))
    weights = np.ones(len(recorded)) if labels.weights is None else labels.weights.astype(np.float64)
    return (
        [each.rewards.sum(dtype=np.float64) for each in pair],
        [each.terminated for each in pair],
        [np.nan if each.success is None else each.success for each in pair],
        weights,
        {key: value for key, value in labels.about.items() if isinstance(value, int | float)},
    )


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"
