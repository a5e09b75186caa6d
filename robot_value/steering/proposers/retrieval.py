"""Recorded chunks as candidates: what was done where it looked like this.

    d(s, s') = |(s - s') / std|,  the last frame's state     candidates = chunks recorded at the nearest s'

After Retrieval-Augmented RL (Goyal et al. 2022, arXiv 2202.08417), whose learned retrieval is a nearest neighbour here.
One step per episode, so that neighbours are different tries and not one moment twice. Episodes of the robot's own task
where there are any. A chunk is as long as its episode went on. The other candidates are samples. Images are not looked
at, so states should say where things are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...episodes.cache import Cache, open_cache
from ...episodes.store import EpisodeStore
from ...normalize import Normalizer
from ...types import Observation
from ...windows import make_windows
from ..proposal import Request
from ._slots import beside_samples, open_slots, with_committed


@dataclass(frozen=True)
class Config:
    data: str = ""  # folder of an episode store
    neighbours: int = 4  # candidates that are retrieved, as far as there are candidates and episodes; own choice
    success_only: bool = True  # only from episodes that ended well

    def build(self) -> Retrieval:
        if not self.data or self.neighbours < 1:
            raise ValueError(
                f"proposer retrieval: expected data=STORE and neighbours >= 1, got {self.data!r} and {self.neighbours}"
            )
        return Retrieval(open_cache(EpisodeStore.open(self.data), progress=False), self)


@dataclass(frozen=True)
class Recorded:
    """E episodes of up to T steps, side by side."""

    tasks: np.ndarray  # str[E]
    state: Tensor  # float32[E, T, S], normalized
    steps: Tensor  # int64[E], usable ones
    chunks: Tensor  # float32[P, H, A], a chunk from every padded step
    first: Tensor  # int64[E], row of the first step's chunk


class Retrieval:
    uses_critic, anytime = False, False

    def __init__(self, cache: Cache, config: Config) -> None:
        self.cache, self.config = cache, config
        self._normalizer = Normalizer.fit(np.asarray(cache.state), key="state")
        self._recorded: Recorded | None = None  # once the horizon is known

    def __call__(self, request: Request) -> tuple[Tensor, Tensor]:
        request.policy.spec.check(self.cache.spec, "the recorded data")
        if self._recorded is None:
            self._recorded = _record(
                self.cache, request.policy.spec.horizon, self.config.success_only, self._normalizer, request.device
            )
        slots = open_slots(request)[: min(self.config.neighbours, len(self._recorded.steps))]
        chunks, lengths = self._nearest(request.observation, len(slots))
        return beside_samples(request, slots, with_committed(request, chunks), lengths)

    def _nearest(self, observation: Observation, k: int) -> tuple[Tensor, Tensor]:
        """Chunks float32[B, k, H, A], nearest first, and lengths int64[B, k]; NaN where no episode is left."""
        recorded = self._recorded
        here = torch.from_numpy(self._normalizer.normalize(observation.state[:, -1])).to(recorded.state)
        apart = torch.cdist(here, recorded.state.flatten(0, 1)).unflatten(1, recorded.state.shape[:2])  # [B, E, T]
        usable = torch.arange(apart.shape[2], device=apart.device) < recorded.steps[:, None]  # bool[E, T]
        distance, step = apart.masked_fill(~usable, torch.inf).min(2)  # [B, E]
        distance = distance.masked_fill(~_same_task(observation, recorded.tasks).to(distance.device), torch.inf)
        distance, episode = distance.sort(dim=1, stable=True)
        episode, step = episode[:, :k], step.gather(1, episode[:, :k])
        chunks = recorded.chunks[recorded.first[episode] + step]
        known = distance[:, :k, None, None].isfinite()
        lengths = (recorded.steps[episode] - step).clamp(1, chunks.shape[2])
        return torch.where(known, chunks, torch.nan), lengths


def _record(cache: Cache, horizon: int, success_only: bool, normalizer: Normalizer, device: torch.device) -> Recorded:
    windows = make_windows(cache, horizon, gamma=1.0, success_only=success_only)
    last = len(cache.state) - 1
    frame = np.minimum(windows.first_frame[:, None] + np.arange(windows.steps.max()), last)  # int64[E, T]
    state = normalizer.normalize(np.asarray(cache.state)[frame])
    padded = np.concatenate([windows.action, np.zeros((horizon - 1, windows.action.shape[1]), np.float32)])
    return Recorded(
        tasks=np.array(cache.tasks)[windows.task],
        state=torch.from_numpy(state).to(device),
        steps=torch.from_numpy(windows.steps).to(device),
        chunks=torch.from_numpy(padded).to(device).unfold(0, horizon, 1).transpose(1, 2),  # a view, no copies
        first=torch.from_numpy(windows.first_padded).to(device),
    )


def _same_task(observation: Observation, tasks: np.ndarray) -> Tensor:
    """bool[B, E]; all True for a robot whose task nobody recorded."""
    same = np.array(observation.task)[:, None] == tasks
    return torch.from_numpy(same | ~same.any(1, keepdims=True))
