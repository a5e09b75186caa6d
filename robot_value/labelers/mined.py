"""Weights that `robot-value replay` mined: more for the moments it found, none for episodes it would leave out.

    w_t = what the table says

An episode that was not replayed has no weight in the table: --labeler.missing says what it weighs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..labels.labels import Episodes, Labels
from ..replay.selection import read_table
from ..types import Episode


@dataclass(frozen=True)
class Config:
    table: str = ""  # weights-*.json, named after its content
    missing: float = 1.0  # weight of all steps of an episode that the table does not name

    def build(self) -> Mined:
        if not self.table:
            raise ValueError("table: expected the weights-*.json of a replay, got nothing")
        return Mined(self, read_table(Path(self.table)))


class Mined:
    def __init__(self, config: Config, weights: dict[str, np.ndarray]) -> None:
        self.config, self.weights = config, weights

    def fit(self, episodes: Episodes) -> None:
        """Every episode's weights are known."""

    def label(self, name: str, episode: Episode) -> Labels:
        weights = self.weights.get(name, np.full(len(episode), self.config.missing, np.float32))
        if len(weights) != len(episode):
            raise ValueError(
                f"episode {name}: expected {len(episode)} weights, got {len(weights)}; was another store replayed?"
            )
        return Labels(weights=weights, about={"mined": name in self.weights})
