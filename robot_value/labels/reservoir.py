"""A uniform sample of bounded size of a stream of rows: those with the smallest of independent random keys."""

from __future__ import annotations

import numpy as np


class Reservoir:
    """`add` columns of the same rows, then `sample` them; what is held never exceeds twice `rows` and one `add`."""

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ValueError(f"rows: expected at least 1 to hold, got {rows}")
        self.rows, self.seen = rows, 0
        self._random = np.random.default_rng(seed)
        self._blocks: list[tuple[np.ndarray, ...]] = []  # (keys float64[n], *columns [n, ...])
        self._held, self._limit = 0, np.inf  # rows in the blocks; larger keys are out already

    def add(self, *columns: np.ndarray) -> None:
        keys = self._random.random(len(columns[0]))
        keep = keys <= self._limit
        self.seen += len(keys)
        if keep.any():
            self._blocks.append((keys[keep], *(column[keep] for column in columns)))
            self._held += int(keep.sum())
        if self._held >= 2 * self.rows:
            self._compact()

    def sample(self) -> list[np.ndarray]:
        """The columns of min(rows, seen) rows, in the order they came."""
        self._compact()
        return list(self._blocks[0][1:])

    def _compact(self) -> None:
        merged = [np.concatenate(parts) for parts in zip(*self._blocks, strict=True)]
        if len(merged[0]) > self.rows:
            self._limit = np.partition(merged[0], self.rows - 1)[self.rows - 1]
            merged = [column[merged[0] <= self._limit] for column in merged]
        self._blocks, self._held = [tuple(merged)], len(merged[0])
