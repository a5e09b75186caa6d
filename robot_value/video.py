"""Pictures of test episodes: their actions are played again, from the same start, on a simulator with a camera.

Simulated robots reset and step bit by bit the same, so the second playing shows what happened in the first; `film`
refuses one that ends differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import report_video
from .types import Decision, Episode, Observation, Outcome


@dataclass
class Keeper:
    """A Watcher that keeps the episodes of a few seeds."""

    seeds: tuple[int, ...]
    episodes: dict[int, Episode] = field(default_factory=dict)  # seed -> episode

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        """Nothing: only whole episodes are kept."""

    def on_episode(self, episode: Episode) -> None:
        seed = int(episode.provenance["seed"])
        if seed in self.seeds:
            self.episodes[seed] = episode


def film(simulator: Any, episode: Episode, label: str = "") -> report_video.Episode:
    """The episode seen by the simulator's first camera. Raises RuntimeError where it does not end as it did."""
    frame = simulator.reset(episode.task, int(episode.provenance["seed"]))
    frames, success = [_picture(frame.images)], False
    for action in episode.actions:
        frame = simulator.step(action)
        frames.append(_picture(frame.images))
        success |= frame.success
    if success != bool(episode.success):
        raise RuntimeError(
            f"seed {episode.provenance['seed']}: played again the episode ends with success={success}, it was "
            f"{episode.success}; the simulator is not reproducible"
        )
    return report_video.Episode(label, frames, success)


def pairs(
    simulator: Any, left: Mapping[int, Episode], right: Mapping[int, Episode], labels: tuple[str, str]
) -> list[report_video.Pair]:
    """One pair per kept seed, in order."""
    return [
        report_video.Pair(
            seed,
            film(simulator, left[seed], labels[0]),
            film(simulator, right[seed], labels[1]),
            fps=1 / left[seed].dt,
        )
        for seed in sorted(left.keys() & right.keys())
    ]


def _picture(images: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(images.values()))
