"""Executed chunks in the order they happened, each once: what learning without replay is fed with.

    (s, c, R, discount, s', c')      R = sum_{i < k'} gamma^i r_{t+i},  discount = gamma^k', 0 where the task ended

c is what was executed in k steps, c' what was executed then. Where time ran out, nobody knows c': that transition is
left out, a value is never invented.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..sampling import TensorObservation
from ..types import Episode


@dataclass(frozen=True)
class Transition:
    """One decision, as a batch of one robot."""

    observation: TensorObservation
    chunk: torch.Tensor  # float32[1, k, A], spec units; past the episode's end its last action repeats
    reward: float  # R
    discount: float  # of what follows
    following: tuple[TensorObservation, torch.Tensor] | None  # s' and c'; None where the task ended
    first: bool  # of its episode


def transitions(
    episode: Episode, k: int, gamma: float, n_obs_steps: int, device: torch.device | str = "cpu"
) -> Iterator[Transition]:
    """Decisions at steps 0, k, 2 k, ... of the episode."""
    for t in range(0, len(episode), k):
        end = t + k
        if end >= len(episode) and not episode.terminated:
            return
        rewards = episode.rewards[t:end].astype(np.float64)
        reward = float(rewards @ gamma ** np.arange(len(rewards)))
        (now, chunk), ended = _decision(episode, t, k, n_obs_steps, device), end >= len(episode)
        following = None if ended else _decision(episode, end, k, n_obs_steps, device)
        yield Transition(now, chunk, reward, 0.0 if ended else gamma**k, following, t == 0)


def _decision(
    episode: Episode, t: int, k: int, n_obs_steps: int, device: torch.device | str
) -> tuple[TensorObservation, torch.Tensor]:
    """What was seen at step t and the k steps that were executed then."""
    steps = np.minimum(t + np.arange(k), len(episode) - 1)
    return _observation(episode, t, n_obs_steps).to(device), torch.from_numpy(episode.actions[steps])[None].to(device)


def _observation(episode: Episode, t: int, n_obs_steps: int) -> TensorObservation:
    """The history that ends at step t; before the start the first frame repeats."""
    frames = np.maximum(t - np.arange(n_obs_steps)[::-1], 0)
    images = {name: torch.from_numpy(np.asarray(images[frames]))[None] for name, images in episode.images.items()}
    state, task = torch.from_numpy(episode.states[frames])[None], torch.zeros(1, dtype=torch.int64)
    return TensorObservation(state, images, task, (episode.task,))


class Stream:
    """Takes a sampler's place in a run: `sample` hands out the oldest transition that waits, and forgets it."""

    batch_size = 1

    def __init__(self, read: Callable[[str], Episode], cut: Callable[[Episode], Iterator[Transition]]) -> None:
        self._read, self._cut = read, cut
        self._counts: dict[str, int] = {}  # transitions of every episode that was taken, in their order
        self._waiting: deque[Transition] = deque()
        self._position = 0  # transitions handed out

    def take(self, names: Sequence[str]) -> None:
        """These episodes of the store come next; those that were taken before do not come again."""
        for name in names:
            if name not in self._counts:
                new = list(self._cut(self._read(name)))
                self._counts[name] = len(new)
                self._waiting.extend(new)

    def due(self, names: Sequence[str]) -> int:
        """Transitions of these episodes that were not handed out yet, however often a round is begun again."""
        return max(0, sum(self._counts[name] for name in names) - self._position)

    def sample(self) -> Transition:
        if not self._waiting:
            raise ValueError("stream: expected an episode nobody has learned from yet, got none; play one first")
        self._position += 1
        return self._waiting.popleft()

    def state(self) -> dict[str, Any]:
        return {"names": list(self._counts), "position": self._position}

    def load_state(self, state: dict[str, Any]) -> None:
        """Of a stream that has nothing yet; the episodes are read again."""
        if self._counts:
            raise ValueError(f"stream state: expected no episodes here, got {len(self._counts)}")
        self.take(state["names"])
        for _ in range(state["position"]):
            self.sample()
