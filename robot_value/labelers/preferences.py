"""A reward from comparisons: any model, or person, says which of two segments is better (RL-VLM-F, Wang et al. 2024).

    r_t = r(frame t+1),    r the mean of a Bradley-Terry ensemble (labels/bradley_terry.py); mean 0, std 1

arXiv 2402.03681. A comparison is easier than a number; pairs that the judge cannot tell apart are skipped. Segments are
a uniform sample of the dataset, both of a pair have one task. Every tenth answer is held out: `agreement` is on those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..labels.bradley_terry import BradleyTerry
from ..labels.callables import checked, load_function
from ..labels.frames import camera_frames, reached
from ..labels.labels import Episodes, Labels
from ..labels.reservoir import Reservoir
from ..labels.small_network import FitConfig
from ..types import Episode

IMAGES = True
PIXELS = 16  # height and width of a frame that is its own features
HELD_OUT = 10  # every so-manieth answer


@dataclass(frozen=True)
class Config:
    judge: str = ""  # package.module:function, (first, second uint8[k, h, w, 3], task) -> -1 first, 1 second, 0 neither
    features: str = "state"  # what r sees: state | pixels | package.module:function, images uint8[n, h, w, 3] -> [n, D]
    camera: str = ""  # which camera is shown; none named: the first
    segment: int = 1  # k, frames of a segment; RL-VLM-F compares single images
    segments: int = 300  # held in memory, a uniform sample of the dataset
    pairs: int = 1000  # questions to the judge
    members: int = 3  # networks in the ensemble; RL-VLM-F uses 3
    fit: FitConfig = FitConfig(steps=500)  # of the ensemble; its seed also draws segments and pairs

    def build(self) -> Preferences:
        if min(self.segment, self.pairs, self.members) < 1 or self.segments < 2:
            raise ValueError("expected segment, pairs and members of at least 1 and segments of at least 2")
        seen = {"state": None, "pixels": pixels}
        known = seen[self.features] if self.features in seen else load_function("features", self.features)
        return Preferences(self, load_function("judge", self.judge), known)


class Preferences:
    def __init__(self, config: Config, judge: Callable[..., Any], features: Callable[..., Any] | None) -> None:
        self.config, self.judge, self._features = config, judge, features

    def fit(self, episodes: Episodes) -> None:
        seen, frames, task = self._segments(episodes)
        tasks, task = np.unique(task, return_inverse=True)
        asked = draw_pairs(task, self.config.pairs, self.config.fit.seed)
        bar = tqdm(asked, "judging", unit="pair", disable=None)
        answers = np.array([self.ask(frames[i], frames[j], str(tasks[task[i]])) for i, j in bar])
        pairs, answers = asked[answers != 0], answers[answers != 0]
        if len(pairs) < 2:
            raise ValueError(f"judge: expected a preference in 2 of {len(asked)} pairs at least, got {len(pairs)}")
        held = np.arange(len(pairs)) % HELD_OUT == 0
        self.model = BradleyTerry(seen, pairs[~held], answers[~held], self.config.members, self.config.fit)
        agreement = self.model.agreement(seen, pairs[held], answers[held])
        self.about = {"asked": len(asked), "answered": len(pairs), "agreement": agreement}

    def label(self, name: str, episode: Episode) -> Labels:
        rewards = reached(self.model.reward(self.features(episode)), len(episode))
        return Labels(rewards, about=self.about)

    def features(self, episode: Episode) -> np.ndarray:
        """float32[F, D]."""
        if self._features is None:
            return episode.states
        frames = camera_frames(episode, self.config.camera)
        return checked("features", self._features(frames), (len(frames), None)).astype(np.float32)

    def ask(self, first: np.ndarray, second: np.ndarray, task: str) -> int:
        """first and second uint8[k, h, w, 3]."""
        answer = checked("judge", self.judge(first, second, task), ())
        if answer not in (-1, 0, 1):
            raise ValueError(f"judge: expected -1 (first), 0 (neither) or 1 (second), got {answer:g}")
        return int(answer)

    def _segments(self, episodes: Episodes) -> list[np.ndarray]:
        """Features float32[P, k, D], frames uint8[P, k, h, w, 3], tasks str[P]."""
        k, found = self.config.segment, Reservoir(self.config.segments, self.config.fit.seed)
        for _, episode in episodes():
            if len(episode.states) >= k:
                both = (windows(x, k) for x in (self.features(episode), camera_frames(episode, self.config.camera)))
                found.add(*both, np.full(len(episode.states) - k + 1, episode.task))
        if not found.seen:
            raise ValueError(f"preferences: expected episodes of at least segment={k} frames, got none")
        return found.sample()


def windows(frames: np.ndarray, k: int) -> np.ndarray:
    """[F, ...] -> [F - k + 1, k, ...], nothing copied."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, k, axis=0), -1, 1)


def draw_pairs(task: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """task int64[P] of each segment -> int64[pairs, 2], two different segments of one task."""
    random, peers = np.random.default_rng(seed), [np.flatnonzero(task == each) for each in range(task.max() + 1)]
    usable = np.flatnonzero([len(peers[each]) > 1 for each in task])
    if not len(usable):
        raise ValueError("preferences: expected two segments of one task at least; take more --labeler.segments")
    first = random.choice(usable, pairs)
    return np.array([(i, random.choice(peers[task[i]][peers[task[i]] != i])) for i in first])


def pixels(frames: np.ndarray) -> np.ndarray:
    """uint8[n, h, w, 3] -> float32[n, 3 * PIXELS^2], 0 to 1, averaged over areas."""
    images = torch.tensor(frames).permute(0, 3, 1, 2).float() / 255
    return F.adaptive_avg_pool2d(images, PIXELS).flatten(1).numpy()
