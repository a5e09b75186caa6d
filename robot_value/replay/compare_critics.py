"""Which critic to believe: each one's main figures, and differences on the same episodes, resampled together.

A paired difference is far narrower than two intervals beside each other: what is hard for one is hard for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..results import plain
from ..statistics import Interval
from . import by_episode, critics
from .by_episode import Resampled
from .prediction import relative_rows
from .replayed import Replayed
from .temporal import within

MEASURES = {  # name -> what is better
    "ece": "lower",
    "auroc first": "higher",  # at an episode's first decision: what a robot could act on
    "auroc half": "higher",  # at the decision half-way
    "rank": "higher",  # Spearman of value and return over all decisions
    "voc": "higher",  # in successes
}


@dataclass(frozen=True)
class Difference:
    measure: str  # one of MEASURES
    critic: str
    against: str
    first: float  # the critic's own figure
    second: float  # that of the other one
    difference: Interval  # critic - against, 95 %

    @property
    def better(self) -> str | None:
        """Who is, where the interval excludes 0."""
        if not (self.difference.low > 0 or self.difference.high < 0):
            return None
        return self.critic if (self.difference.mean > 0) == (MEASURES[self.measure] == "higher") else self.against


def compare(replayed: Replayed, config: critics.Config = critics.Config()) -> tuple[Difference, ...]:
    """Every pair of critics in every measure, over the decisions that both have valued."""
    drawn = by_episode.draws(len(replayed.episodes), config.resamples, config.seed)
    found = []
    for names in combinations(replayed.opinions, 2):
        values = np.stack([replayed.opinions[name].logged_value.astype(float) for name in names])
        values[:, ~np.isfinite(values).all(0)] = np.nan
        first, second = (_measures(replayed, value, drawn, config) for value in values)
        for measure in MEASURES:
            a, b = first[measure], second[measure]
            found.append(Difference(measure, *names, a.estimate, b.estimate, (a - b).interval))
    return tuple(found)


def to_json(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return plain([asdict(each) | {"better": each.better} for each in found])


def _measures(replayed: Replayed, value: np.ndarray, drawn: np.ndarray, config: critics.Config) -> dict[str, Resampled]:
    episode, each, success = replayed.episode, np.arange(len(replayed.episodes)), replayed.success
    voc = np.where(success == 1, within(replayed, value, replayed.step), np.nan)
    moments = [value[rows] for _, rows in relative_rows(replayed, 3)]  # first, half, last
    areas = [by_episode.auroc(moment, success, each, drawn) for moment in moments[:2]]
    return {
        "ece": critics.ece(value, replayed.returns, episode, drawn, config.bins),
        "auroc first": areas[0],
        "auroc half": areas[1],
        "rank": by_episode.spearman(value, replayed.returns, episode, drawn),
        "voc": by_episode.mean(voc, each, drawn),
    }
