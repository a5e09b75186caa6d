"""Rewards by a function of your own: any reward model that takes a whole recorded episode.

def reward(episode: robot_value.types.Episode) -> T numbers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..labels.callables import checked, load_function
from ..labels.labels import Episodes, Labels
from ..types import Episode

IMAGES = True


@dataclass(frozen=True)
class Config:
    function: str = ""  # package.module:function, Episode (images included, decisions not) -> a number per action

    def build(self) -> CallableReward:
        return CallableReward(load_function("function", self.function))


class CallableReward:
    def __init__(self, function: Callable[[Episode], Any]) -> None:
        self.function = function

    def fit(self, episodes: Episodes) -> None:
        """The function is what it is."""

    def label(self, name: str, episode: Episode) -> Labels:
        return Labels(checked("function", self.function(episode), (len(episode),)).astype(np.float32))
