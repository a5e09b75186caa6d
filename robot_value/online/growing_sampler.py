"""Batches of offline and online data in fixed shares (RLPD: half and half), while the online part grows.

Batch i is a function of the seed, of i and of the episodes that were there: a saved state brings the same ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..episodes.cache import Cache
from ..mixing import apportion, concatenate, take
from ..sampling import ChunkBatch, ChunkSampler
from ..types import Episode
from .grown import Grown


class GrowingSampler:
    """A Sampler (mixing.Sampler). Without offline data all rows are online ones, and the other way round at first."""

    def __init__(
        self,
        make: Callable[[Cache, int, int], ChunkSampler],  # (cache, batch size, seed)
        read: Callable[[str], Episode],  # an online episode, by its name in the store
        grown: Grown,  # empty
        offline: Cache | None,
        batch_size: int,
        share: float,  # of a batch that is offline data, where there is both
        seed: int,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected 0 to 1 of a batch, got {share}")
        share = share if offline is not None else 0.0
        self.batch_size, self.seed = batch_size, seed
        self._rows = apportion(batch_size, [share, 1 - share])
        self._make, self._read, self.grown = make, read, grown
        self._offline = None if offline is None else make(offline, self._rows[0] or batch_size, seed)
        self._online: ChunkSampler | None = None

    def __len__(self) -> int:
        """Legal starts of both parts."""
        return sum(len(part) for part in (self._offline, self._online) if part is not None)

    def take(self, names: Sequence[str]) -> None:
        """These episodes of the store are data from now on; those that are already, stay."""
        new = [name for name in names if name not in self.grown.names]
        for name in new:
            self.grown.add(name, self._read(name))
        if new:
            self._online = self._make(self.grown.cache(), self._rows[1] or self.batch_size, self.seed + len(self.grown))

    def sample(self) -> ChunkBatch:
        if self._offline is None and self._online is None:
            raise ValueError("expected offline data or a recorded episode before the first update, got neither")
        parts = [(self._offline, self._rows[0]), (self._online, self._rows[1])]
        there = [(part, rows) for part, rows in parts if part is not None and rows]
        if len(there) == 1:
            return _filled(there[0][0], self.batch_size)
        return concatenate([part.sample() for part, _ in there])

    def state(self) -> dict[str, Any]:
        return {
            "names": list(self.grown.names),
            "offline": None if self._offline is None else self._offline.state(),
            "online": None if self._online is None else self._online.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Of a sampler that has nothing yet; the episodes are read again."""
        if len(self.grown):
            raise ValueError(f"sampler state: expected no online episodes here, got {len(self.grown)}")
        self.take(state["names"])
        for part, saved in ((self._offline, state["offline"]), (self._online, state["online"])):
            if part is not None:
                part.load_state(saved)


def _filled(part: ChunkSampler, rows: int) -> ChunkBatch:
    """A whole batch from the one part that is there."""
    batches = [part.sample() for _ in range(-(-rows // part.batch_size))]
    return take(concatenate(batches), slice(0, rows))
