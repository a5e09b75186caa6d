"""How close a frame is to the goal in the embedding space of any vision-language model (LIV, Ma et al. 2023).

    r_t = gamma S_{t+1} - S_t    or, with potential=false,    r_t = S_{t+1},        S_t = cos(embed(frame_t), goal)

arXiv 2306.00958. The goal is the task's text in the same space, or the mean direction of its successes' last frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..labels.callables import checked, load_function
from ..labels.frames import camera_frames, potential, reached
from ..labels.labels import Episodes, Labels
from ..types import Episode

IMAGES = True


@dataclass(frozen=True)
class Config:
    embed_images: str = ""  # package.module:function, images uint8[n, h, w, 3] -> numbers [n, D]
    embed_text: str = ""  # package.module:function, task str -> numbers [D]; none: goals are last frames of successes
    camera: str = ""  # which camera is embedded; none named: the first
    potential: bool = True  # reward differences of similarity (LIV), or with false the similarity itself
    gamma: float = 1.0  # of the differences; the learner's own keeps its optimal policies
    batch: int = 64  # frames embedded at once

    def build(self) -> GoalSimilarity:
        if self.batch < 1:
            raise ValueError(f"batch: expected at least 1 frame, got {self.batch}")
        text = load_function("embed_text", self.embed_text) if self.embed_text else None
        return GoalSimilarity(self, load_function("embed_images", self.embed_images), text)


class GoalSimilarity:
    def __init__(self, config: Config, images: Callable[..., Any], text: Callable[..., Any] | None) -> None:
        self.config, self._images, self._text = config, images, text
        self._goals: dict[str, np.ndarray] = {}  # task -> float64[D], of any length

    def fit(self, episodes: Episodes) -> None:
        if self._text is None:
            for _, episode in episodes():
                if episode.success:
                    last = self.embed(camera_frames(episode, self.config.camera)[-1:])[0]
                    self._goals[episode.task] = self._goals.get(episode.task, 0.0) + last

    def label(self, name: str, episode: Episode) -> Labels:
        goal, steps = self.goal(episode.task), len(episode)
        seen = self.embed(camera_frames(episode, self.config.camera))  # [F, D]
        if seen.shape[1] != len(goal):
            raise ValueError(f"embed_text: expected {seen.shape[1]} numbers, as of embed_images, got {len(goal)}")
        near = seen @ goal  # [F]
        rewards = potential(near, steps, self.config.gamma) if self.config.potential else reached(near, steps)
        return Labels(rewards, about={"first": float(near[0]), "last": float(near[-1]), "nearest": float(near.max())})

    def goal(self, task: str) -> np.ndarray:
        """float64[D], length 1."""
        if task not in self._goals and self._text is not None:
            self._goals[task] = checked("embed_text", self._text(task), (None,))
        if task not in self._goals:
            raise ValueError(
                f"goal_similarity: expected a success of task {task!r} to take the goal from, got none; name an "
                "--labeler.embed_text"
            )
        return unit("embed_text" if self._text else "goal", self._goals[task])

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """frames uint8[n, h, w, 3] -> float64[n, D], length 1 each."""
        pieces = [frames[i : i + self.config.batch] for i in range(0, len(frames), self.config.batch)]
        found = [checked("embed_images", self._images(piece), (len(piece), None)) for piece in pieces]
        return unit("embed_images", np.concatenate(found))


def unit(flag: str, vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not length.all():
        raise ValueError(f"{flag}: expected vectors with a direction, got one of length 0")
    return vectors / length
