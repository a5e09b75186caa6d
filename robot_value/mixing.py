"""Batches of several sources as one: symmetric sampling (RLPD, Ball et al. 2023, arXiv 2302.02948) and any mixture.

    sampler = MixedSampler([(demonstrations, 0.5), (rollouts, 0.5)])

A tree here is a ChunkBatch or a part of one: dataclasses and dicts with tensors whose first dimension is the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .sampling import ChunkBatch, TensorObservation
from .types import Seen


class Sampler(Protocol):
    """What training asks of its data; ChunkSampler is one."""

    batch_size: int

    def __len__(self) -> int: ...

    def sample(self) -> ChunkBatch: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class MixedSampler:
    """Every batch has the same rows of each source, in the order given; as many as the first source's batch has.

    Rows are taken from the sources' own batches one after the other, so none is skipped and their sizes may differ.
    `index` of a row counts in its own source's cache.
    """

    def __init__(self, parts: Sequence[tuple[Sampler, float]]) -> None:
        """parts: samplers and their shares of a batch, which sum to 1."""
        if not parts or min(share for _, share in parts) < 0 or abs(sum(share for _, share in parts) - 1) > 1e-6:
            raise ValueError(f"shares: expected numbers >= 0 that sum to 1, got {[share for _, share in parts]}")
        self.batch_size = parts[0][0].batch_size
        self.rows = apportion(self.batch_size, [share for _, share in parts])
        self._sources = [_Source(sampler) for sampler, _ in parts]

    def __len__(self) -> int:
        """Legal starts of all sources together."""
        return sum(len(source.sampler) for source in self._sources)

    def sample(self) -> ChunkBatch:
        return concatenate([source.take(n) for source, n in zip(self._sources, self.rows, strict=True) if n])

    def state(self) -> dict[str, Any]:
        """JSON values; after `load_state` come exactly the batches that would have come here."""
        return {"rows": self.rows, "sources": [source.state() for source in self._sources]}

    def load_state(self, state: dict[str, Any]) -> None:
        if state.get("rows") != self.rows:
            raise ValueError(f"sampler state: expected rows {self.rows} of the sources, got {state.get('rows')}")
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.load_state(saved)


class _Source:
    """A sampler that is read row by row."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self._used = sampler, 0
        self._before = sampler.state()  # where it stood before the batch at hand
        self._batch: ChunkBatch | None = None

    def take(self, n: int) -> ChunkBatch:
        """The next n rows."""
        pieces = []
        while n:
            if self._batch is None or self._used == self.sampler.batch_size:
                self._before, self._batch, self._used = self.sampler.state(), self.sampler.sample(), 0
            some = min(n, self.sampler.batch_size - self._used)
            pieces.append(take(self._batch, slice(self._used, self._used + some)))
            self._used, n = self._used + some, n - some
        return concatenate(pieces)

    def state(self) -> dict[str, Any]:
        return {"before": self._before, "used": self._used}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sampler.load_state(state["before"])
        self._before, self._used = state["before"], state["used"]
        self._batch = self.sampler.sample() if self._used else None


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total`, as near to the shares as they can be (largest remainders)."""
    exact = [total * share for share in shares]
    counts = [int(each) for each in exact]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def take(batch: ChunkBatch, rows: slice) -> ChunkBatch:
    return _map(lambda tensor: tensor[rows], batch)


def concatenate(batches: Sequence[ChunkBatch]) -> ChunkBatch:
    """The rows of all; task texts of the sources become one list."""
    return batches[0] if len(batches) == 1 else _map(lambda *tensors: torch.cat(tensors), *batches)


def _map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """A tree like the first, each tensor made from the tensors at its place."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        if any(tree.keys() != first.keys() for tree in trees):
            raise ValueError(f"mixed batches: expected the same keys, got {[sorted(tree) for tree in trees]}")
        return {key: _map(function, *(tree[key] for tree in trees)) for key in first}
    if not is_dataclass(first):  # texts, or a field that nobody asked for
        return first
    if isinstance(first, TensorObservation):
        trees = _with_common_tasks(trees)
    if isinstance(first, Seen):
        longest = max(tree.tokens.shape[1] for tree in trees)
        trees = [tree.padded(longest) for tree in trees]
    return replace(
        trees[0], **{f.name: _map(function, *(getattr(tree, f.name) for tree in trees)) for f in fields(first)}
    )


def _with_common_tasks(seen: Sequence[TensorObservation]) -> list[TensorObservation]:
    if len({each.seen is None for each in seen}) > 1:
        raise ValueError("mixed batches: expected a policy's features from all sources or from none, got some")
    tasks = tuple(dict.fromkeys(text for each in seen for text in each.tasks))
    if all(each.tasks == tasks for each in seen):
        return list(seen)
    places = [torch.tensor([tasks.index(text) for text in each.tasks], device=each.task.device) for each in seen]
    return [replace(each, task=place[each.task], tasks=tasks) for each, place in zip(seen, places, strict=True)]
