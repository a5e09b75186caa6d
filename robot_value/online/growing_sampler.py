"""Batches of offline and online data in fixed shares (RLPD: half and half), while the online part grows.

Demonstrations that are given while the robot works join the offline part: its rows are shared by legal starts.
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

GIVEN = 1 << 32  # keeps the draws of demonstrations apart from those of online episodes


class GrowingSampler:
    """A Sampler (mixing.Sampler). Without offline data all rows are online ones, and the other way round at first."""

    def __init__(
        self,
        make: Callable[[Cache, int, int], ChunkSampler | None],  # (cache, batch size, seed); None: nothing in it yet
        read: Callable[[str], Episode],  # an online episode, by its name in the store
        grown: Grown,  # empty
        offline: Cache | None,
        batch_size: int,
        share: float,  # of a batch that is offline data, where there is both
        seed: int,
        given: tuple[Callable[[str], Episode], Grown] | None = None,  # demonstrations to come: how to read them, empty
        refit: Callable[[Sequence[str]], None] | None = None,  # `make` sees other labels of `offline` afterwards
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected 0 to 1 of a batch, got {share}")
        share = share if offline is not None or given else 0.0
        self.batch_size, self.seed = batch_size, seed
        self._rows = apportion(batch_size, [share, 1 - share])
        self._make, self._read, self.grown, self._refit = make, read, grown, refit
        self._prior, self._offline = offline, None if offline is None else self._make_offline(offline)
        self._online: ChunkSampler | None = None
        self._read_given, self.given = given or (read, None)
        self._given: ChunkSampler | None = None

    def __len__(self) -> int:
        """Legal starts of both parts."""
        return sum(len(part) for part in self._parts if part is not None)

    @property
    def _parts(self) -> tuple[ChunkSampler | None, ...]:
        return self._offline, self._given, self._online

    def take(self, names: Sequence[str]) -> None:
        """These episodes of the store are data from now on; those that are already, stay."""
        new = [name for name in names if name not in self.grown.names]
        for name in new:
            self.grown.add(name, self._read(name))
        if new:
            self._online = self._make(self.grown.cache(), self._rows[1] or self.batch_size, self.seed + len(self.grown))

    def give(self, names: Sequence[str]) -> None:
        """These demonstrations are offline data from now on; those that are already, stay."""
        new = [name for name in names if name not in self.given.names]
        for name in new:
            self.given.add(name, self._read_given(name))
        if new:
            seed = self.seed + GIVEN + len(self.given)
            self._given = self._make(self.given.cache(), self._rows[0] or self.batch_size, seed)

    def relabel(self, names: Sequence[str]) -> None:
        """What offline data pay is said anew, these online episodes known; the draws go on where they are."""
        self._refit(names)
        before, self._offline = self._offline, self._make_offline(self._prior)
        if before is None or self._offline is None:
            raise ValueError(
                "relabel_every: expected labels by which offline data are learned from, got weights of 0 alone; leave "
                "it at 0, or label them otherwise"
            )
        self._offline.load_state(self._offline.state() | {"position": before.state()["position"]})

    def _make_offline(self, prior: Cache) -> ChunkSampler | None:
        return self._make(prior, self._rows[0] or self.batch_size, self.seed)

    @property
    def ready(self) -> bool:
        """Whether there is a window to learn from. Episodes alone need not have one: DAgger waits for a correction."""
        return bool(self._chosen())

    def _chosen(self) -> list[tuple[list[ChunkSampler], int]]:
        """What batches are drawn from now: of each half its parts and its rows."""
        halves = [(self._offline, self._given), (self._online,)]
        there = [[part for part in half if part is not None] for half in halves]
        return [(half, rows) for half, rows in zip(there, self._rows, strict=True) if half and rows]

    def sample(self) -> ChunkBatch:
        if not (chosen := self._chosen()):
            raise ValueError("expected offline data or a recorded episode before the first update, got neither")
        if len(chosen) == 1:
            chosen = [(chosen[0][0], self.batch_size)]
        return concatenate([batch for half, rows in chosen for batch in _shared(half, rows)])

    def state(self) -> dict[str, Any]:
        names = ("offline", "given", "online")
        states = {name: None if p is None else p.state() for name, p in zip(names, self._parts, strict=True)}
        given = [] if self.given is None else list(self.given.names)
        return {"names": list(self.grown.names), "demonstrations": given, **states}

    def load_state(self, state: dict[str, Any]) -> None:
        """Of a sampler that has nothing yet; the episodes are read again."""
        if len(self.grown):
            raise ValueError(f"sampler state: expected no online episodes here, got {len(self.grown)}")
        self.take(state["names"])
        if self.given is not None:
            self.give(state["demonstrations"])
        for part, name in zip(self._parts, ("offline", "given", "online"), strict=True):
            if part is not None:
                part.load_state(state[name])


def _shared(parts: list[ChunkSampler], rows: int) -> list[ChunkBatch]:
    """`rows` from all of them, each as many as its legal starts are of all."""
    starts = [len(part) for part in parts]
    shares = apportion(rows, [each / sum(starts) for each in starts])
    return [_filled(part, n) for part, n in zip(parts, shares, strict=True) if n]


def _filled(part: ChunkSampler, rows: int) -> ChunkBatch:
    """The next rows of one part; what its last batch has more is left out."""
    batches = [part.sample() for _ in range(-(-rows // part.batch_size))]
    return take(concatenate(batches), slice(0, rows))
