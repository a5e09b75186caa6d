"""Progress as any vision-language model sees it (GVL, Ma et al. 2024, arXiv 2411.04549).

    r_t = scale (gamma p_{t+1} - p_t),    p = model(shuffled frames, task), in order again, interpolated between frames

The first frame leads as an anchor; the others are shuffled, or a model answers "later is more" without looking.
VOC, the rank correlation of p with time over the shuffled frames, says whether it looked and the episode gets on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..labels.callables import checked, load_function
from ..labels.frames import camera_frames, evenly, potential
from ..labels.labels import Episodes, Labels
from ..types import Episode

IMAGES = True


@dataclass(frozen=True)
class Config:
    model: str = ""  # package.module:function, (images uint8[n, h, w, 3], task str) -> n numbers of progress, 0 to 1
    camera: str = ""  # which camera it sees; none named: the first
    frames: int = 30  # frames shown per episode at most, evenly spaced
    gamma: float = 1.0  # of the potential; the learner's own keeps its optimal policies, at 1 rewards sum to progress
    scale: float = 1.0  # reward of the whole way
    least_voc: float = -1.0  # episodes below get weight 0; -1 keeps all
    seed: int = 0  # of the shuffle, which differs per episode

    def build(self) -> Progress:
        if self.frames < 2:
            raise ValueError(f"frames: expected at least 2, got {self.frames}")
        return Progress(self, load_function("model", self.model))


class Progress:
    def __init__(self, config: Config, model: Callable[..., Any]) -> None:
        self.config, self.model = config, model

    def fit(self, episodes: Episodes) -> None:
        """The model is trained already."""

    def label(self, name: str, episode: Episode) -> Labels:
        c, frames = self.config, camera_frames(episode, self.config.camera)
        shown = evenly(len(frames), c.frames)
        seen = self.ask(name, frames[shown], episode.task)
        voc = value_order_correlation(seen[1:])
        everywhere = np.interp(np.arange(len(frames)), shown, seen)  # [F]
        return Labels(
            rewards=c.scale * potential(everywhere, len(episode), c.gamma),
            weights=np.full(len(episode), voc >= c.least_voc, np.float32) if c.least_voc > -1 else None,
            about={"voc": voc, "frames": shown.tolist(), "progress": seen.tolist()},
        )

    def ask(self, name: str, images: np.ndarray, task: str) -> np.ndarray:
        """images uint8[n, h, w, 3] in the order of time -> float64[n], asked in another one."""
        random = np.random.default_rng([self.config.seed, *name.encode()])
        order = np.array([0, *(1 + random.permutation(len(images) - 1))])
        answer = checked("model", self.model(images[order], task), (len(images),))
        if answer.min() < 0 or answer.max() > 1:
            raise ValueError(
                f"model: expected progress from 0 to 1, got {answer.min():g} to {answer.max():g}; divide percent by 100"
            )
        return answer[np.argsort(order)]


# VOC = rank-correlation(p_1..p_n, 1..n), Spearman's; 0 where the model sees no difference
def value_order_correlation(seen: np.ndarray) -> float:
    """seen [n] in the order of time."""
    if len(seen) < 2 or np.ptp(seen) == 0:
        return 0.0
    return float(stats.spearmanr(seen, np.arange(len(seen))).statistic)
