"""What value learning needs to know about a recorded episode and its recorder could not: said afterwards, by a labeler.

A labeler is one file in robot_value/labelers/ with a frozen Config whose build() returns one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..types import Episode

ARRAYS = ("rewards", "weights", "returns")
Episodes = Callable[
    [], Iterator[tuple[str, Episode]]
]  # every call starts a fresh pass, one episode in memory at a time


@dataclass(frozen=True)
class Labels:
    """Of one episode of T steps; None = as recorded."""

    rewards: np.ndarray | None = None  # float32[T]
    weights: np.ndarray | None = None  # float32[T], >= 0, relative chance that a window starts at this step; None = 1
    terminated: bool | None = None  # does the relabelled task end with this episode
    success: bool | None = None
    about: dict[str, Any] = field(default_factory=dict)  # JSON values: what the labeler found; "gamma" is of `returns`
    returns: np.ndarray | None = None  # float32[T], return to go in place of the one that follows from the rewards

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> float32[T] of those that are not None."""
        return {name: array for name in ARRAYS if (array := getattr(self, name)) is not None}

    def check(self, steps: int) -> None:
        """Raise ValueError with expected and got where an array cannot belong to an episode of T = `steps`."""
        for name, array in self.arrays.items():
            if array.dtype != np.float32 or array.shape != (steps,):
                raise ValueError(f"{name}: expected float32[{steps}], got {array.dtype.name}{list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
        if self.weights is not None and self.weights.min() < 0:
            raise ValueError(f"weights: expected at least 0, got {self.weights.min()}")

    def over(self, base: Labels) -> Labels:
        """These labels, and `base` where they say nothing; but returns of rewards that were replaced are gone."""
        theirs = replace(base, returns=None) if self.rewards is not None else base
        said = {name: getattr(self, name) for name in (*ARRAYS, "terminated", "success")}
        kept = {name: getattr(theirs, name) if value is None else value for name, value in said.items()}
        return Labels(**kept, about={**base.about, **self.about})

    def on(self, episode: Episode) -> Episode:
        """The episode as a labeler (or a critic) sees it through these labels."""
        said = {name: getattr(self, name) for name in ("rewards", "terminated", "success")}
        return replace(episode, **{name: value for name, value in said.items() if value is not None})


class Labeler(Protocol):
    """Its module may set IMAGES = True where it looks at images; otherwise episodes come without any, nor decisions."""

    def fit(self, episodes: Episodes) -> None:
        """One or more passes over the dataset, before any labelling. Who asks for `episodes()` depends on all of them:
        episodes that are appended later cannot be labelled alike, and are refused under the same name."""

    def label(self, name: str, episode: Episode) -> Labels: ...
